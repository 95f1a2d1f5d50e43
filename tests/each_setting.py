"""The queue of tests about what runs in the event loop: `from each_setting import store as store`.

Where a module imports this fixture, `store` and all that is made of it, as `queue`, are of each setting: memory on
trio, and Redis on asyncio. Without the import they are of each driver.
"""

import pytest
from store import Store


@pytest.fixture
def store(loop_store: Store) -> Store:
    """One queue's store in each setting."""
    return loop_store

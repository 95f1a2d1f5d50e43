"""The contract of a driver, as tests: `from redisjobs.testing.driver_contract import *` in a module of tests.

That module, or a conftest, needs a fixture `driver_store` that returns a `DriverStore`. docs/drivers.md has an
example, and lists the abilities of a driver that each of these modules needs.
"""

import pkgutil

try:
    import pytest
except ImportError as missing:
    raise ImportError(
        "the contract of a driver is run by pytest, which is not here: install redisjobs with its extra `testing`"
    ) from missing

# pytest shows the values of a failed `assert` in these modules only if it knows them before we import them.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))

from redisjobs.testing.driver_contract.fixtures import *  # noqa: E402, I001  (in the order in which a driver is built)
from redisjobs.testing.driver_contract.claiming import *  # noqa: E402
from redisjobs.testing.driver_contract.settling import *  # noqa: E402
from redisjobs.testing.driver_contract.operating import *  # noqa: E402
from redisjobs.testing.driver_contract.repeating import *  # noqa: E402
from redisjobs.testing.driver_contract.leaving import *  # noqa: E402
from redisjobs.testing.driver_contract.reclaiming import *  # noqa: E402
from redisjobs.testing.driver_contract.last_deliveries import *  # noqa: E402
from redisjobs.testing.driver_contract.waiting import *  # noqa: E402
from redisjobs.testing.driver_contract.scanning import *  # noqa: E402
from redisjobs.testing.driver_contract.asking import *  # noqa: E402
from redisjobs.testing.driver_contract.histories import *  # noqa: E402
from redisjobs.testing.driver_contract.pausing import *  # noqa: E402
from redisjobs.testing.driver_contract.holding import *  # noqa: E402
from redisjobs.testing.driver_contract.limiting import *  # noqa: E402
from redisjobs.testing.driver_contract.pacing import *  # noqa: E402
from redisjobs.testing.driver_contract.lining_up import *  # noqa: E402
from redisjobs.testing.driver_contract.unique_keys import *  # noqa: E402
from redisjobs.testing.driver_contract.requeued_keys import *  # noqa: E402
from redisjobs.testing.driver_contract.following import *  # noqa: E402
from redisjobs.testing.driver_contract.sharing import *  # noqa: E402
from redisjobs.testing.driver_contract.awaiting import *  # noqa: E402
from redisjobs.testing.driver_contract.reporting import *  # noqa: E402
from redisjobs.testing.driver_contract.recording import *  # noqa: E402
from redisjobs.testing.driver_contract.standing import *  # noqa: E402
from redisjobs.testing.driver_contract.wishing import *  # noqa: E402
from redisjobs.testing.driver_contract.relaying import *  # noqa: E402
from redisjobs.testing.driver_contract.saving_steps import *  # noqa: E402
from redisjobs.testing.driver_contract.suspending import *  # noqa: E402
from redisjobs.testing.driver_contract.going_on import *  # noqa: E402
from redisjobs.testing.driver_contract.awaiting_children import *  # noqa: E402
from redisjobs.testing.driver_contract.taking import *  # noqa: E402
from redisjobs.testing.driver_contract.importing import *  # noqa: E402
from redisjobs.testing.driver_contract.importing_steps import *  # noqa: E402
from redisjobs.testing.driver_contract.begun_keys import *  # noqa: E402
from redisjobs.testing.driver_contract.streaming import *  # noqa: E402

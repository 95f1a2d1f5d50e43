"""The contract of a driver, as tests: `from redisjobs_proof.contract import *` in a module of tests.

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

from redisjobs_proof.contract.fixtures import *  # noqa: E402, I001  (in the order in which a driver is built)
from redisjobs_proof.contract.claiming import *  # noqa: E402
from redisjobs_proof.contract.settling import *  # noqa: E402
from redisjobs_proof.contract.operating import *  # noqa: E402
from redisjobs_proof.contract.repeating import *  # noqa: E402
from redisjobs_proof.contract.leaving import *  # noqa: E402
from redisjobs_proof.contract.reclaiming import *  # noqa: E402
from redisjobs_proof.contract.last_deliveries import *  # noqa: E402
from redisjobs_proof.contract.waiting import *  # noqa: E402
from redisjobs_proof.contract.scanning import *  # noqa: E402
from redisjobs_proof.contract.asking import *  # noqa: E402
from redisjobs_proof.contract.histories import *  # noqa: E402
from redisjobs_proof.contract.pausing import *  # noqa: E402
from redisjobs_proof.contract.holding import *  # noqa: E402
from redisjobs_proof.contract.limiting import *  # noqa: E402
from redisjobs_proof.contract.pacing import *  # noqa: E402
from redisjobs_proof.contract.lining_up import *  # noqa: E402
from redisjobs_proof.contract.unique_keys import *  # noqa: E402
from redisjobs_proof.contract.requeued_keys import *  # noqa: E402
from redisjobs_proof.contract.following import *  # noqa: E402
from redisjobs_proof.contract.sharing import *  # noqa: E402
from redisjobs_proof.contract.awaiting import *  # noqa: E402
from redisjobs_proof.contract.reporting import *  # noqa: E402
from redisjobs_proof.contract.recording import *  # noqa: E402
from redisjobs_proof.contract.standing import *  # noqa: E402
from redisjobs_proof.contract.wishing import *  # noqa: E402
from redisjobs_proof.contract.relaying import *  # noqa: E402
from redisjobs_proof.contract.saving_steps import *  # noqa: E402
from redisjobs_proof.contract.suspending import *  # noqa: E402
from redisjobs_proof.contract.going_on import *  # noqa: E402
from redisjobs_proof.contract.awaiting_children import *  # noqa: E402
from redisjobs_proof.contract.taking import *  # noqa: E402
from redisjobs_proof.contract.importing import *  # noqa: E402
from redisjobs_proof.contract.importing_steps import *  # noqa: E402
from redisjobs_proof.contract.begun_keys import *  # noqa: E402
from redisjobs_proof.contract.streaming import *  # noqa: E402

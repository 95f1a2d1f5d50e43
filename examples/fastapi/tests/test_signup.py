import httpx
import pytest

from app.jobs import send_email
from app.main import app
from redisjobs.testing import AsyncJobs

pytestmark = pytest.mark.anyio


async def test_a_signup_sends_an_email(ajobs: AsyncJobs, capsys: pytest.CaptureFixture[str]) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        response = await client.post("/signup", params={"email": "joe@email.com"})

    assert response.status_code == 202
    await ajobs.assert_pushed(send_email, to="joe@email.com", subject="Welcome")

    assert (await ajobs.drain()).completed == 1
    assert capsys.readouterr().out == "to joe@email.com: Welcome\n"

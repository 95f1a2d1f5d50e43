import pytest

from app.jobs import send_email
from app.main import app
from redisjobs.testing import Jobs


def test_a_signup_sends_an_email(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    response = app.test_client().post("/signup?email=joe@email.com")

    assert response.status_code == 202
    jobs.assert_pushed(send_email, to="joe@email.com", subject="Welcome")

    assert jobs.drain().completed == 1
    assert capsys.readouterr().out == "from shop@email.com to joe@email.com: Welcome\n"

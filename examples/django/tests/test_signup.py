import pytest
from django.test import Client

from redisjobs.testing import Jobs
from signups.tasks import send_email


def test_a_signup_sends_an_email(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    response = Client().post("/signup?email=joe@email.com")

    assert response.status_code == 202
    jobs.assert_pushed("signups.tasks.send_email", kwargs={"to": "joe@email.com", "subject": "Welcome"})

    assert jobs.drain().completed == 1
    assert capsys.readouterr().out == "to joe@email.com: Welcome\n"
    assert send_email.get_result(response.json()["task"]).return_value == "sent to joe@email.com"

# jobs.py: what both sides know
from dataclasses import dataclass
from typing import ClassVar


@dataclass
class SendEmail:
    job_name: ClassVar[str] = "SendEmail"
    to: str
    subject: str

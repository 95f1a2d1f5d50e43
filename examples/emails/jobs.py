# jobs.py: the parameters, which both sides import
from dataclasses import dataclass
from typing import ClassVar


@dataclass
class SendEmail:
    job_name: ClassVar[str] = "SendEmail"
    to: str
    subject: str

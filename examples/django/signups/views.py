"""The views. They enqueue tasks; `manage.py redisjobs worker` runs them."""

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from signups.tasks import send_email


@csrf_exempt
@transaction.atomic
def signup(request: HttpRequest) -> JsonResponse:
    # Save the customer here. The task is enqueued when this transaction commits.
    result = send_email.enqueue(to=request.GET["email"], subject="Welcome")
    return JsonResponse({"task": result.id}, status=202)


def status(request: HttpRequest, result_id: str) -> JsonResponse:
    result = send_email.get_result(result_id)
    return JsonResponse({"status": result.status, "errors": [error.traceback for error in result.errors]})


def health(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})

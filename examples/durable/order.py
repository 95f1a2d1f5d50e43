# order.py
import asyncio

from redisjobs import JobContext, JobQueue

queue = JobQueue("redis://127.0.0.1:6379/0", name="orders")
DAY = 24 * 3600


async def charge_card(order_id: int) -> str:
    print(f"charged order {order_id}")
    return f"charge-{order_id}"


async def refund(charge: str) -> None:
    print(f"refunded {charge}")


@queue.job
async def render(order_id: int, page: int) -> str:
    return f"order-{order_id}-page-{page}.pdf"


@queue.job
async def mail(order_id: int, pages: list[str]) -> str:
    print(f"mailed {len(pages)} pages of order {order_id}")
    return f"message-{order_id}"


@queue.job(keep_result=DAY)
async def order(order_id: int, context: JobContext) -> str:
    charge = await context.step("charge", charge_card, order_id)
    by = await context.wait_for("approved", timeout=DAY, default=None)
    if by is None:
        await context.step("refund", refund, charge)
        return "refunded"
    pages = await context.run_all([render.prepare(order_id, page) for page in range(10)])
    message = await context.run(mail.prepare(order_id, pages))
    return f"approved by {by}, sent as {message}"


async def main() -> None:
    async with queue:
        job = await order.options(job_id="order-7").push(7)
        print("pushed", job.id)


if __name__ == "__main__":
    asyncio.run(main())

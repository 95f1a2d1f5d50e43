# orders.py: an order in Postgres, and its mail on Redis
import os

import psycopg

from redisjobs.sync import JobQueue

queue = JobQueue(os.environ.get("REDISJOBS_URL", "memory://"), name="orders")
database = os.environ.get("REDISJOBS_DATABASE", "")


@queue.job
def send_mail(order: int) -> None:
    print(f"mail for order {order}")


def place_order(order: int) -> None:
    with psycopg.connect(database) as connection:  # commits at the end, or rolls back
        connection.execute("INSERT INTO orders VALUES (%s)", [order])
        job = send_mail.options(within=connection).push(order)
        print(job.added)  # prints: None


if __name__ == "__main__":
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS orders (number int PRIMARY KEY)")
    place_order(7)

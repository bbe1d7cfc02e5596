"""Recommendations for everybody on a list, a hundred at a time, awaited together.

python newsletter.py http://localhost:8080 < users
"""

from __future__ import annotations

import asyncio
import sys

from ledstream_client import AsyncClient

AT_ONCE = 100


async def main(address: str) -> None:
    users = [line.strip() for line in sys.stdin if line.strip()]
    parts = [users[start : start + AT_ONCE] for start in range(0, len(users), AT_ONCE)]
    async with AsyncClient(address) as client:
        for answers in await asyncio.gather(*(client.recommend_many(part, k=3, details=True) for part in parts)):
            for answer in answers:
                print(answer.user, *(item.title or item.item_id for item in answer.items), sep="\t")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

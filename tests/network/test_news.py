"""News of agents, from one thread to another."""

import threading
import time

import pytest

from fedrl.network.news import GONE, UPDATE, AgentNews, NewsQueue

LONG_S = 10.0
"""Longer than any of these waits should take: one that reaches it has not been woken."""


def woken(news: NewsQueue, enough: int = 1) -> list[int]:
    """Return the agents of the news that end a wait."""
    began = time.monotonic()
    found = news.take(LONG_S, enough)
    assert time.monotonic() - began < LONG_S, "nobody woke the loop"
    return [item.agent for item in found]


def later(news: NewsQueue, *items: AgentNews) -> threading.Thread:
    """Put items from another thread, a moment after each other."""

    def put() -> None:
        for item in items:
            time.sleep(0.02)
            news.put(item)

    thread = threading.Thread(target=put)
    thread.start()
    return thread


def test_all_news_that_are_there_are_taken_in_order():
    news = NewsQueue()
    for agent in range(3):
        news.put(AgentNews(UPDATE, agent))
    assert [item.agent for item in news.take(0.0)] == [0, 1, 2]
    assert news.take(0.0) == []


def test_a_wait_ends_with_the_first_news():
    news = NewsQueue()
    thread = later(news, AgentNews(UPDATE, 0))
    assert woken(news) == [0]
    thread.join()


def test_a_wait_for_several_updates_ends_with_the_last_of_them():
    news = NewsQueue()
    thread = later(news, *(AgentNews(UPDATE, agent) for agent in range(3)))
    assert woken(news, 3) == [0, 1, 2]
    thread.join()


def test_updates_that_came_before_the_wait_count():
    news = NewsQueue()
    news.take(0.0, 3)
    news.put(AgentNews(UPDATE, 0))  # wakes nobody: three were waited for
    assert woken(news) == [0]


@pytest.mark.parametrize("item", [AgentNews(GONE, 7), AgentNews(UPDATE, 7, held=True)])
def test_other_news_and_long_updates_end_a_wait_for_several(item):
    news = NewsQueue()
    thread = later(news, AgentNews(UPDATE, 0), item)
    assert woken(news, 5) == [0, 7]
    thread.join()


def test_too_few_updates_are_returned_when_time_is_up():
    news = NewsQueue()
    news.put(AgentNews(UPDATE, 0))
    assert [item.agent for item in news.take(0.05, 5)] == [0]


def test_nothing_is_lost_between_two_threads():
    """Any order of puts and takes: a wake-up that is lost would leave an item, and the last take would wait for it."""
    news, found = NewsQueue(), list[int]()
    threads = [
        threading.Thread(target=lambda k=k: [news.put(AgentNews(UPDATE, 1000 * k + i)) for i in range(1000)])
        for k in range(2)
    ]
    for thread in threads:
        thread.start()
    while len(found) < 2000:
        found += woken(news, min(7, 2000 - len(found)))
    assert sorted(found) == list(range(2000))
    for thread in threads:
        thread.join()

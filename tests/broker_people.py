"""A broker that a whole module of tests has, and two of its users who have nothing to do with each other.

A module that says `desk` otherwise has its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.broker_desk import BrokerDesk, Person


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, each_database: None) -> Iterator[BrokerDesk]:
    from tests.broker_desk import running_broker  # which loads a server and a framework

    with running_broker(tmp_path_factory.mktemp("broker")) as desk:
        yield desk


@pytest.fixture(scope="module")
def alice(desk: BrokerDesk) -> Person:
    return desk.person("alice")


@pytest.fixture(scope="module")
def bob(desk: BrokerDesk, alice: Person) -> Person:
    return desk.person("bob")

"""The processes of a table, replaced by a stand-in."""

import pytest
from support_tables import Processes

from cmg.tables.running import Workers


@pytest.fixture
def processes(monkeypatch):
    stand_in = Processes()
    monkeypatch.setattr(Workers, "call", lambda *args: stand_in(*args))
    return stand_in

"""What is measured, in the order in which it is.

A section has a `name`, a `title`, `measure(bench)`, which returns data that JSON can hold,
and `tables(data)`, which says what they mean: results can be looked at again, and in another
way, without being measured again.
"""

from sections.calls import Batches, Bulk, Calls, Eight
from sections.ceiling import Blocks, Ceiling, Nodes
from sections.clients import Clients, Pace
from sections.core import Core
from sections.profile import Transactions
from sections.statements import Decoding, Inserts
from sections.upkeep import Counting, Joining, Keeper, Seldom

SECTIONS = [
    Calls(),
    Eight(),
    Ceiling(),
    Blocks(),
    Inserts(),
    Clients(),
    Transactions(),
    Pace(),
    Batches(),
    Bulk(),
    Decoding(),
    Nodes(),
    Core(),
    Keeper(),
    Seldom(),
    Joining(),
    Counting(),
]

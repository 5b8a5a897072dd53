"""How is all of it used? Home, family and models, composed in one place: the front door."""

from diffgraph.session.deciding import Decision, check_method
from diffgraph.session.session import Session

__all__ = ["Decision", "Session", "check_method"]

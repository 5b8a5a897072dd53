"""What the tests of extension points share."""

from tests.diffgraph.extending.packages import install

__all__ = ["install"]

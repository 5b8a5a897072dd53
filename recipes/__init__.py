"""What makes a family that is bundled; no part of the product."""

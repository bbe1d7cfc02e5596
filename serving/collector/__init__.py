"""What web pages and shops' backends send: who they are, whether they may, and what becomes of it."""

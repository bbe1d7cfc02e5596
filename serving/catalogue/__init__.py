"""What is known of items: put, shown with answers, and what is out of stock shown to nobody."""

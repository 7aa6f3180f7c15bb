"""What is told to people in their language: texts, numbers, times and limits, apart from what tells them."""

"""What connects redisjobs with other libraries, each with an extra of its own."""

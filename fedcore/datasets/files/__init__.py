"""What all readers rest on: folders of classes, tables, arrays, what is kept, and one boundary for their errors."""

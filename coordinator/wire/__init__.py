"""What goes to devices and comes from them: messages, blobs in chunks."""

"""Topics, messages, codec, chunks and transports. Light modules import no numpy: take what you need from each."""

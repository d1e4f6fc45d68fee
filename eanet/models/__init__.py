"""The model: patches, attentions, blocks, head, and what they cost."""

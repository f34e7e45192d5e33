"""BullMQ, for Node.js, as a contender."""

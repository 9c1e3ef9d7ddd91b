//! Native files come back: with other states, from others, broken.

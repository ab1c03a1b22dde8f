/* block_memory.h: memory for decoded blocks, by size class, so that a cache which evicts and loads for
 * days takes no more than it says.
 *
 * Blocks have about one size, but not quite, and come and go in another order each: with malloc the
 * process grew to half again the cache's capacity. Here a freed place fits the next block.
 *
 * Owns      regions of 2 MiB, kept for the whole process: blocks may outlive the cache they were in.
 * Callers   block.c.
 * Threads   any; one lock, held for some tens of nanoseconds beside reading a block.
 */
#ifndef LK_BLOCK_MEMORY_H
#define LK_BLOCK_MEMORY_H

#include <stddef.h>

/* What a block of `bytes` takes: at least that, and to be given to the next two. */
size_t lk_block_memory_size(size_t bytes);
/* Aligned to 64 bytes; NULL when there is no memory. `size` comes from lk_block_memory_size. */
void *lk_block_memory_take(size_t size);
void lk_block_memory_give(void *memory, size_t size);

/* Bytes of all regions, in use or not, and of blocks that have mappings of their own. */
size_t lk_block_memory_total(void);

#endif

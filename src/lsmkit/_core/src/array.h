/* array.h: arrays that grow by one item at a time. */
#ifndef LK_ARRAY_H
#define LK_ARRAY_H

#include "status.h"

/* Makes room for one more than `count` items of `size` bytes. `array` is the address of the pointer to
 * them. Twice the room each time, so that an item costs O(1); no array gets 2^32 items. After LK_NOMEM
 * all is as it was. */
lk_status lk_array_grow(void *array, size_t count, size_t *capacity, size_t size, lk_error *err);

#endif

/* array.c: see array.h. */
#include "array.h"

#include <stdlib.h>
#include <string.h>

lk_status lk_array_grow(void *array, size_t count, size_t *capacity, size_t size, lk_error *err)
{
    if (count < *capacity) return LK_OK;
    size_t more = count < 4 ? 8 : count * 2;
    void *items;
    memcpy(&items, array, sizeof items); /* a pointer of whatever type */
    items = count > UINT32_MAX / 2 ? NULL : realloc(items, more * size);
    if (items == NULL) return lk_fail_nomem(err, more * size);
    memcpy(array, &items, sizeof items);
    *capacity = more;
    return LK_OK;
}

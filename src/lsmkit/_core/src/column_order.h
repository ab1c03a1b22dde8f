/* column_order.h: the rows of a key column in the order of their keys, each key once.
 *
 * Owns      the list of rows.
 * Callers   ingest.c.
 * Threads   none of its own; the column does not change meanwhile.
 * Errors    LK_NOMEM; LK_INVALID for more rows than 32 bits count.
 */
#ifndef LK_COLUMN_ORDER_H
#define LK_COLUMN_ORDER_H

#include "column.h"
#include "status.h"

typedef struct lk_column_order {
    uint32_t *rows; /* NULL: they stand in order as they are */
    uint32_t count; /* of different keys */
} lk_column_order;

/* Of equal keys the last row stays. Takes 36 bytes a row while it works and 4 for the result; nothing
 * where the keys ascend. A radix sort of 8 bytes of the keys at a time, behind what all of them begin
 * with. */
lk_status lk_column_order_make(const lk_column *keys, lk_column_order *out, lk_error *err);
void lk_column_order_free(lk_column_order *order); /* a zeroed one is accepted */

static inline uint32_t lk_column_order_row(const lk_column_order *order, uint32_t i)
{
    return order->rows != NULL ? order->rows[i] : i;
}

#endif

/* column.h: a borrowed column of byte strings, in the forms that Python programs hold them.
 *
 * Owns      nothing: whoever made the column keeps its memory alive and unchanged.
 * Callers   the border fills one for keys and one for values; segment.c and table_write.c read them.
 * Threads   plain data; read without the GIL.
 *
 * The loops over rows switch on the form once a row: the branch is the same each time and costs
 * nothing beside the copy.
 */
#ifndef LK_COLUMN_H
#define LK_COLUMN_H

#include "bytes.h"

typedef enum lk_column_form {
    LK_COLUMN_FIXED,    /* row i is `width` bytes at data + i * stride */
    LK_COLUMN_STRIPPED, /* as FIXED, trailing zero bytes are no part of the row (NumPy S<n>) */
    LK_COLUMN_OFFSET32, /* row i is data[offsets[i] .. offsets[i + 1]), int32 (Arrow binary) */
    LK_COLUMN_OFFSET64, /* the same with int64 (Arrow large_binary) */
    LK_COLUMN_SPANS,    /* row i is spans[i]: a pointer and a length (lists of buffers) */
    LK_COLUMN_INTEGER, /* key: `width` bytes, big-endian, bits flipped by `flip`, so that it sorts */
    LK_COLUMN_FLOAT,   /* key: `width` bytes (4 or 8), IEEE order made to sort, big-endian */
} lk_column_form;

typedef struct lk_column {
    lk_column_form form;
    uint32_t width;
    size_t count;  /* rows */
    size_t stride; /* bytes from row to row */
    uint64_t flip; /* INTEGER: xor mask before the bytes are turned (the sign bit) */
    const uint8_t *data;
    const void *offsets; /* int32_t or int64_t, count + 1 of them, checked by the border */
    const lk_bytes *spans;
} lk_column;

/* Turns an integer column's row into `width` sortable bytes (width is 1, 2, 4 or 8). */
static inline void lk_column_sortable(const lk_column *col, const uint8_t *src, uint8_t *out)
{
    uint64_t v = 0;
    memcpy(&v, src, col->width);
    if (col->form == LK_COLUMN_FLOAT) {
        uint64_t sign = (uint64_t)1 << (8 * col->width - 1);
        uint64_t all = col->width == 8 ? ~(uint64_t)0 : (sign << 1) - 1;
        v ^= (v & sign) != 0 ? all : sign;
    } else {
        v ^= col->flip;
    }
    v = __builtin_bswap64(v) >> (64 - 8 * col->width);
    memcpy(out, &v, col->width);
}

/* Row i; `scratch` holds 8 bytes for the forms that are turned. */
static inline lk_bytes lk_column_row(const lk_column *col, size_t i, uint8_t *scratch)
{
    switch (col->form) {
    case LK_COLUMN_FIXED:
        return (lk_bytes){col->data + i * col->stride, col->width};
    case LK_COLUMN_STRIPPED: {
        const uint8_t *p = col->data + i * col->stride;
        size_t n = col->width;
        while (n > 0 && p[n - 1] == 0) n--;
        return (lk_bytes){p, n};
    }
    case LK_COLUMN_OFFSET32: {
        const int32_t *o = (const int32_t *)col->offsets;
        return (lk_bytes){col->data + o[i], (size_t)(o[i + 1] - o[i])};
    }
    case LK_COLUMN_OFFSET64: {
        const int64_t *o = (const int64_t *)col->offsets;
        return (lk_bytes){col->data + o[i], (size_t)(o[i + 1] - o[i])};
    }
    case LK_COLUMN_SPANS:
        return col->spans[i];
    case LK_COLUMN_INTEGER:
    case LK_COLUMN_FLOAT:
        lk_column_sortable(col, col->data + i * col->stride, scratch);
        return (lk_bytes){scratch, col->width};
    }
    return (lk_bytes){NULL, 0};
}

#endif

/* Any bytes as a page, with a checksum that holds: the page is refused, or every cell may be looked at,
 * searched for, taken out and put into another page. */
#include <stdint.h>
#include <stdlib.h>

#include "btree_page.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
extern volatile uint64_t fuzz_btree_sink;

enum { PAGE = LK_BTREE_PAGE_MIN };

/* What was looked at, so that looking is not optimised away. */
volatile uint64_t fuzz_btree_sink;

static uint64_t look_at(const uint8_t *p)
{
    uint8_t key[LK_KEY_INLINE_MAX];
    uint64_t sum = lk_page_used(p, PAGE);
    for (uint32_t i = 0; i < lk_page_count(p); i++) {
        uint32_t slot;
        lk_cell c = lk_page_cell(p, PAGE, i);
        if (c.prefix_len != 0) memcpy(key, c.prefix, c.prefix_len);
        if (c.suffix_len != 0) memcpy(key + c.prefix_len, c.suffix, c.suffix_len);
        lk_bytes sought = {key, c.prefix_len + c.suffix_len};
        sum += (uint64_t)lk_page_search(p, PAGE, sought, 0, lk_page_count(p), &slot) + slot;
        for (uint32_t j = 0; j < c.tail_len; j++) sum += c.tail[j];
        if (!lk_page_is_leaf(p)) sum += lk_page_child(p, i);
    }
    return sum;
}

/* Everything out of one page into another, then away. */
static void change(uint8_t *p, uint8_t *other, lk_cell *cells)
{
    memcpy(other, p, PAGE);
    uint32_t n = lk_page_gather(p, PAGE, cells, 0);
    if (lk_cells_bytes(cells, n) <= PAGE - LK_PAGE_HEADER_BYTES) {
        lk_page_build(other, PAGE, cells, n);
        if (lk_page_check(other, PAGE, "fuzz", 0, NULL) != LK_OK) abort();
    }
    for (uint32_t left = lk_page_count(p); left > 0; left--) lk_page_remove(p, PAGE, left / 2);
    if (lk_page_check(p, PAGE, "fuzz", 0, NULL) != LK_OK) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    uint8_t *p = calloc(2, PAGE);
    lk_cell *cells = malloc(lk_page_cells_max(PAGE) * sizeof *cells);
    if (p == NULL || cells == NULL) abort();
    /* The end of a page is where its cells are: short inputs have both ends. */
    size_t head = bytes < PAGE ? bytes / 2 : PAGE, tail = bytes < PAGE ? bytes - head : 0;
    if (head != 0) memcpy(p, data, head);
    if (tail != 0) memcpy(p + PAGE - tail, data + head, tail);
    if (lk_page_check(p, PAGE, "fuzz", 0, NULL) == LK_OK) {
        fuzz_btree_sink += look_at(p);
        change(p, p + PAGE, cells);
    }
    free(cells);
    free(p);
    return 0;
}

/* btree_page.c: searching, changing and proving one page of a B+tree; see btree_page.h. */
#include "btree_page.h"

#include "check.h"

_Static_assert(LK_BTREE_PAGE_MAX <= 32768, "offsets within a page have 16 bits");

enum { AT_KIND = 8, AT_LEVEL = 9, AT_COUNT = 10, AT_HEAP = 12, AT_GARBAGE = 14, AT_PREFIX = 16 };

static inline uint8_t *slot_at(uint8_t *p, uint32_t slot)
{
    return p + LK_PAGE_HEADER_BYTES + LK_SLOT_BYTES * slot;
}

/* The first four bytes as a number that sorts as they do; equal numbers say nothing. */
static inline uint32_t head_of(const uint8_t *s, size_t n)
{
    uint32_t v = 0;
    if (LK_LIKELY(n >= 4)) {
        memcpy(&v, s, 4);
        return __builtin_bswap32(v);
    }
    for (size_t i = 0; i < n; i++) v |= (uint32_t)s[i] << (24 - 8 * i);
    return v;
}

static inline uint32_t inline_len(uint32_t page_bytes, uint32_t key_len)
{
    uint32_t key_max = lk_page_key_max(page_bytes);
    return key_len < key_max ? key_len : key_max;
}

static uint32_t tail_bytes(bool is_leaf, uint32_t page_bytes, uint32_t key_len, uint32_t word)
{
    uint32_t n = key_len > lk_page_key_max(page_bytes) ? LK_REF_BYTES : 0;
    if (!is_leaf) return n;
    return n + (lk_page_is_inline(page_bytes, key_len, word) ? word : LK_REF_BYTES);
}

lk_cell lk_page_cell(const uint8_t *p, uint32_t page_bytes, uint32_t slot)
{
    LK_ASSERT(slot < lk_page_count(p));
    const uint8_t *at = lk_page_cell_at(p, slot);
    lk_cell c = {.key_len = lk_page_key_len(p, slot), .word = lk_load32(at)};
    c.prefix_len = lk_page_prefix_len(p);
    c.prefix = p + page_bytes - c.prefix_len;
    c.suffix = at + 4;
    c.suffix_len = inline_len(page_bytes, c.key_len) - c.prefix_len;
    c.tail = c.suffix + c.suffix_len;
    c.tail_len = tail_bytes(lk_page_is_leaf(p), page_bytes, c.key_len, c.word);
    return c;
}

lk_page_answer lk_page_search(const uint8_t *p, uint32_t page_bytes, lk_bytes key, uint32_t low,
                              uint32_t high, uint32_t *out_slot)
{
    uint32_t prefix_len = lk_page_prefix_len(p), key_max = lk_page_key_max(page_bytes);
    if (prefix_len != 0) {
        size_t n = key.len < prefix_len ? key.len : prefix_len;
        int c = n == 0 ? 0 : memcmp(key.data, p + page_bytes - prefix_len, n);
        if (c != 0 || key.len < prefix_len) {
            *out_slot = c > 0 ? high : low;
            return LK_PAGE_ABOVE;
        }
    }
    const uint8_t *rest = key.data + prefix_len;
    size_t rest_len = key.len - prefix_len;
    /* Of a long cell's key no byte behind key_max is known here: the sought one has none either. */
    uint32_t head =
        head_of(rest, rest_len < key_max - prefix_len ? rest_len : key_max - prefix_len);
    const uint8_t *slots = p + LK_PAGE_HEADER_BYTES;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const uint8_t *slot = slots + LK_SLOT_BYTES * middle;
        uint32_t there = lk_load32(slot);
        if (there != head) {
            if (there < head) {
                low = middle + 1;
            } else {
                high = middle;
            }
            continue;
        }
        uint32_t key_len = lk_load16(slot + 6);
        size_t stored = (key_len < key_max ? key_len : key_max) - prefix_len;
        size_t n = stored < rest_len ? stored : rest_len;
        int c = n == 0 ? 0 : memcmp(p + lk_load16(slot + 4) + 4, rest, n);
        if (c == 0) {
            if (key_len > key_max && key.len > key_max) {
                *out_slot = middle;
                return LK_PAGE_TIE;
            }
            if (key_len == key.len) {
                *out_slot = middle;
                return LK_PAGE_FOUND;
            }
            c = key_len < key.len ? -1 : 1;
        }
        if (c < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    *out_slot = low;
    return LK_PAGE_ABOVE;
}

/* ---- proving ---- */

static lk_status damaged(const char *path, uint64_t offset, uint64_t expected, uint64_t found,
                         const char *what, lk_error *err)
{
    return lk_fail_corrupt(err, path, offset, expected, found, "%s: the page at byte %llu %s", path,
                           (unsigned long long)offset, what);
}

/* Whether the keys of two slots may follow one another, as far as they are inline. */
static bool in_order(const uint8_t *p, uint32_t page_bytes, uint32_t slot)
{
    lk_cell a = lk_page_cell(p, page_bytes, slot), b = lk_page_cell(p, page_bytes, slot + 1);
    uint32_t key_max = lk_page_key_max(page_bytes);
    int c = lk_key_compare(a.suffix, a.suffix_len, b.suffix, b.suffix_len);
    return c < 0 || (c == 0 && b.key_len > key_max && a.key_len >= key_max);
}

static lk_status check_cells(const uint8_t *p, uint32_t page_bytes, const char *path,
                             uint64_t offset, lk_error *err)
{
    uint32_t count = lk_page_count(p), heap = lk_page_heap(p), prefix = lk_page_prefix_len(p);
    uint32_t end = page_bytes - prefix, sum = 0;
    bool is_leaf = lk_page_is_leaf(p);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t key_len = lk_page_key_len(p, i);
        uint32_t at = (uint32_t)(lk_page_cell_at(p, i) - p);
        if (at < heap || at > end || end - at < 4 || key_len < prefix) {
            return damaged(path, offset, heap, at, "has a cell outside of its cells", err);
        }
        uint32_t word = lk_load32(p + at), stored = inline_len(page_bytes, key_len) - prefix;
        uint64_t bytes = 4 + (uint64_t)stored + tail_bytes(is_leaf, page_bytes, key_len, word);
        if (bytes > end - at || (is_leaf && word > LK_VALUE_BYTES_MAX)) {
            return damaged(path, offset, end - at, bytes, "has a cell that is too long", err);
        }
        const uint8_t *slot = p + LK_PAGE_HEADER_BYTES + LK_SLOT_BYTES * i;
        if (lk_load32(slot) != head_of(p + at + 4, stored)) {
            return damaged(path, offset, i, i, "has a slot that is not of its cell", err);
        }
        sum += (uint32_t)bytes;
        if (i > 0 && !in_order(p, page_bytes, i - 1)) {
            return damaged(path, offset, i, i, "has keys out of order", err);
        }
    }
    if (sum + lk_page_garbage(p) != end - heap) {
        return damaged(path, offset, end - heap, sum, "does not add up", err);
    }
    return LK_OK;
}

lk_status lk_page_check(const uint8_t *p, uint32_t page_bytes, const char *path, uint64_t offset,
                        lk_error *err)
{
    uint32_t kind = p[AT_KIND], level = p[AT_LEVEL], count = lk_page_count(p);
    uint32_t heap = lk_page_heap(p), prefix = lk_page_prefix_len(p);
    if ((kind != LK_PAGE_LEAF && kind != LK_PAGE_BRANCH) ||
        (kind == LK_PAGE_LEAF) != (level == 0) || level >= LK_BTREE_LEVELS_MAX) {
        return damaged(path, offset, LK_PAGE_LEAF, kind, "is of no kind that there is", err);
    }
    if (prefix > lk_page_key_max(page_bytes) || heap > page_bytes - prefix ||
        count > lk_page_cells_max(page_bytes) ||
        heap < LK_PAGE_HEADER_BYTES + LK_SLOT_BYTES * count) {
        return damaged(path, offset, page_bytes, heap, "has a wrong header", err);
    }
    return check_cells(p, page_bytes, path, offset, err);
}

/* ---- changing ---- */

void lk_page_init(uint8_t *p, uint32_t page_bytes, lk_page_kind kind, uint32_t level, uint32_t left)
{
    LK_ASSERT(page_bytes >= LK_BTREE_PAGE_MIN && page_bytes <= LK_BTREE_PAGE_MAX);
    memset(p, 0, page_bytes);
    p[AT_KIND] = (uint8_t)kind;
    p[AT_LEVEL] = (uint8_t)level;
    lk_store16(p + AT_HEAP, (uint16_t)page_bytes);
    lk_page_set_left(p, left);
}

/* Copies the inline key from byte `from` on. */
static uint8_t *key_copy(uint8_t *to, const lk_cell *c, uint32_t from)
{
    if (from < c->prefix_len) {
        memcpy(to, c->prefix + from, c->prefix_len - from);
        to += c->prefix_len - from;
        from = c->prefix_len;
    }
    uint32_t skip = from - c->prefix_len;
    if (c->suffix_len > skip) memcpy(to, c->suffix + skip, c->suffix_len - skip);
    return to + (c->suffix_len - skip);
}

static uint32_t cell_bytes(const lk_cell *c, uint32_t prefix_len)
{
    return 4 + c->prefix_len + c->suffix_len - prefix_len + c->tail_len;
}

/* Writes the cell at the top of the heap and its slot; there is room. */
static void place(uint8_t *p, uint32_t slot, const lk_cell *c)
{
    uint32_t prefix_len = lk_page_prefix_len(p), bytes = cell_bytes(c, prefix_len);
    uint32_t at = lk_page_heap(p) - bytes;
    lk_store16(p + AT_HEAP, (uint16_t)at);
    lk_store32(p + at, c->word);
    uint8_t *end = key_copy(p + at + 4, c, prefix_len);
    if (c->tail_len != 0) memcpy(end, c->tail, c->tail_len);
    uint8_t *s = slot_at(p, slot);
    lk_store32(s, head_of(p + at + 4, (size_t)(end - (p + at + 4))));
    lk_store16(s + 4, (uint16_t)at);
    lk_store16(s + 6, (uint16_t)c->key_len);
}

bool lk_page_shares(const uint8_t *p, uint32_t page_bytes, const lk_cell *cell)
{
    uint32_t prefix_len = lk_page_prefix_len(p);
    LK_ASSERT(cell->prefix_len == 0);
    return cell->suffix_len >= prefix_len &&
           (prefix_len == 0 || memcmp(cell->suffix, p + page_bytes - prefix_len, prefix_len) == 0);
}

bool lk_page_insert(uint8_t *p, uint32_t page_bytes, uint32_t slot, const lk_cell *cell)
{
    uint32_t count = lk_page_count(p), heap = lk_page_heap(p);
    uint32_t need = LK_SLOT_BYTES + cell_bytes(cell, lk_page_prefix_len(p));
    LK_ASSERT(slot <= count && heap <= page_bytes);
    (void)page_bytes;
    if (heap - (LK_PAGE_HEADER_BYTES + LK_SLOT_BYTES * count) < need) return false;
    uint8_t *s = slot_at(p, slot);
    memmove(s + LK_SLOT_BYTES, s, (size_t)LK_SLOT_BYTES * (count - slot));
    lk_store16(p + AT_COUNT, (uint16_t)(count + 1));
    place(p, slot, cell);
    return true;
}

void lk_page_remove(uint8_t *p, uint32_t page_bytes, uint32_t slot)
{
    lk_cell c = lk_page_cell(p, page_bytes, slot);
    uint32_t count = lk_page_count(p), bytes = 4 + c.suffix_len + c.tail_len;
    uint32_t at = (uint32_t)(c.suffix - 4 - p);
    if (at == lk_page_heap(p)) {
        lk_store16(p + AT_HEAP, (uint16_t)(at + bytes));
    } else {
        lk_store16(p + AT_GARBAGE, (uint16_t)(lk_page_garbage(p) + bytes));
    }
    uint8_t *s = slot_at(p, slot);
    memmove(s, s + LK_SLOT_BYTES, (size_t)LK_SLOT_BYTES * (count - slot - 1));
    lk_store16(p + AT_COUNT, (uint16_t)(count - 1));
}

uint32_t lk_page_gather(const uint8_t *p, uint32_t page_bytes, lk_cell *cells, uint32_t count)
{
    uint32_t n = lk_page_count(p);
    for (uint32_t i = 0; i < n; i++) cells[count + i] = lk_page_cell(p, page_bytes, i);
    return count + n;
}

/* What the inline keys of the first and the last have in common, so of all between them. One cell
 * alone has no prefix: the next one would hardly share all of it. */
static uint32_t common_prefix(const lk_cell *cells, uint32_t count)
{
    uint8_t a[LK_KEY_INLINE_MAX], b[LK_KEY_INLINE_MAX];
    if (count < 2) return 0;
    size_t a_len = (size_t)(key_copy(a, &cells[0], 0) - a);
    size_t b_len = (size_t)(key_copy(b, &cells[count - 1], 0) - b);
    return (uint32_t)lk_common_prefix(a, a_len, b, b_len);
}

uint32_t lk_cells_bytes(const lk_cell *cells, uint32_t count)
{
    uint32_t prefix_len = common_prefix(cells, count), sum = prefix_len;
    for (uint32_t i = 0; i < count; i++) sum += LK_SLOT_BYTES + cell_bytes(&cells[i], prefix_len);
    return sum;
}

void lk_page_build(uint8_t *p, uint32_t page_bytes, const lk_cell *cells, uint32_t count)
{
    uint32_t prefix_len = common_prefix(cells, count);
    LK_ASSERT(lk_cells_bytes(cells, count) <= page_bytes - LK_PAGE_HEADER_BYTES);
    uint8_t first[LK_KEY_INLINE_MAX];
    if (prefix_len != 0) (void)key_copy(first, &cells[0], 0);
    lk_page_init(p, page_bytes, lk_page_kind_of(p), lk_page_level(p), lk_page_left(p));
    if (prefix_len != 0) memcpy(p + page_bytes - prefix_len, first, prefix_len);
    lk_store16(p + AT_PREFIX, (uint16_t)prefix_len);
    lk_store16(p + AT_HEAP, (uint16_t)(page_bytes - prefix_len));
    lk_store16(p + AT_COUNT, (uint16_t)count);
    for (uint32_t i = 0; i < count; i++) place(p, i, &cells[i]);
}

/* btree_page.h: one page of a B+tree: slots, cells, and what all its keys begin with, once.
 *
 *   0        32             32 + 8 * count      heap                  end - prefix       end
 *   +--------+--------------+-------------------+---------------------+------------------+
 *   | header | slots, sorted| free              | cells, in any order | prefix of keys   |
 *   +--------+--------------+-------------------+---------------------+------------------+
 *
 * A slot has the first four bytes of its key behind the prefix, so that a search looks into few
 * cells. A leaf's cell is a key and its value; a branch's is a separator and the child whose keys are
 * not less. Keys and values that are too long stand in an extent of pages of their own (btree_file.h):
 * of the key the first bytes are in the cell all the same. FORMAT-btree.md is the authority.
 *
 * Owns      nothing: a page is the caller's memory.
 * Callers   btree_edit.c changes pages; btree_read.c searches them; btree_file.c proves them.
 * Threads   none of its own; the tree's latch is what keeps a page still.
 * Always    a page that lk_page_check has passed can be read without looking at bounds again.
 */
#ifndef LK_BTREE_PAGE_H
#define LK_BTREE_PAGE_H

#include "bytes.h"
#include "status.h"

#define LK_PAGE_HEADER_BYTES 32u
#define LK_SLOT_BYTES 8u
#define LK_REF_BYTES 12u /* page of an extent, and the hash of what it holds */
#define LK_BTREE_PAGE_MIN 4096u
#define LK_BTREE_PAGE_MAX 32768u
#define LK_KEY_INLINE_MAX (LK_BTREE_PAGE_MAX / 8)
#define LK_BTREE_LEVELS_MAX 24u

typedef enum lk_page_kind { LK_PAGE_LEAF = 1, LK_PAGE_BRANCH = 2 } lk_page_kind;

/* A row, or a separator, in a page or on its way to one. Its key as far as it is inline is `prefix`
 * and then `suffix`. */
typedef struct lk_cell {
    const uint8_t *prefix;
    const uint8_t *suffix;
    const uint8_t *tail; /* ref of the key where it is long; of a leaf the value, or its ref */
    uint32_t prefix_len;
    uint32_t suffix_len;
    uint32_t tail_len;
    uint32_t key_len; /* of the whole key */
    uint32_t word;    /* leaf: bytes of the value; branch: the child */
} lk_cell;

typedef struct lk_ref {
    uint32_t page;
    uint64_t hash;
} lk_ref;

static inline lk_ref lk_ref_load(const uint8_t *p)
{
    return (lk_ref){lk_load32(p), lk_load64(p + 4)};
}
static inline void lk_ref_store(uint8_t *p, lk_ref ref)
{
    lk_store32(p, ref.page);
    lk_store64(p + 4, ref.hash);
}

/* ---- the header ---- */

static inline lk_page_kind lk_page_kind_of(const uint8_t *p) { return (lk_page_kind)p[8]; }
static inline uint32_t lk_page_level(const uint8_t *p) { return p[9]; }
static inline uint32_t lk_page_count(const uint8_t *p) { return lk_load16(p + 10); }
static inline uint32_t lk_page_heap(const uint8_t *p) { return lk_load16(p + 12); }
static inline uint32_t lk_page_garbage(const uint8_t *p) { return lk_load16(p + 14); }
static inline uint32_t lk_page_prefix_len(const uint8_t *p) { return lk_load16(p + 16); }
static inline uint32_t lk_page_left(const uint8_t *p) { return lk_load32(p + 20); }
static inline uint32_t lk_page_stamp(const uint8_t *p) { return lk_load32(p + 24); }
static inline bool lk_page_is_leaf(const uint8_t *p) { return p[8] == LK_PAGE_LEAF; }

/* Bytes of the longest key that is whole in its cell. */
static inline uint32_t lk_page_key_max(uint32_t page_bytes) { return page_bytes / 8; }
/* Two of any cells, with their slots, fit into a page. */
static inline uint32_t lk_page_cell_max(uint32_t page_bytes)
{
    return (page_bytes - LK_PAGE_HEADER_BYTES) / 2;
}
/* Whether a value stands in its cell: follows from lengths alone. */
static inline bool lk_page_is_inline(uint32_t page_bytes, uint32_t key_len, uint32_t value_len)
{
    uint32_t key_max = lk_page_key_max(page_bytes);
    uint32_t head = LK_SLOT_BYTES + 4 + (key_len > key_max ? key_max + LK_REF_BYTES : key_len);
    return value_len <= lk_page_cell_max(page_bytes) - head;
}

static inline uint32_t lk_page_used(const uint8_t *p, uint32_t page_bytes)
{
    return LK_SLOT_BYTES * lk_page_count(p) + page_bytes - lk_page_heap(p) - lk_page_garbage(p);
}

/* ---- reading ---- */

static inline uint32_t lk_page_key_len(const uint8_t *p, uint32_t slot)
{
    return lk_load16(p + LK_PAGE_HEADER_BYTES + LK_SLOT_BYTES * slot + 6);
}
static inline const uint8_t *lk_page_cell_at(const uint8_t *p, uint32_t slot)
{
    return p + lk_load16(p + LK_PAGE_HEADER_BYTES + LK_SLOT_BYTES * slot + 4);
}

lk_cell lk_page_cell(const uint8_t *p, uint32_t page_bytes, uint32_t slot);

/* The child at `index`, from 0 to the count of separators. */
static inline uint32_t lk_page_child(const uint8_t *p, uint32_t index)
{
    return index == 0 ? lk_page_left(p) : lk_load32(lk_page_cell_at(p, index - 1));
}

typedef enum lk_page_answer {
    LK_PAGE_FOUND, /* the key is that of the slot */
    LK_PAGE_ABOVE, /* the slot is the first whose key is greater, or the count */
    LK_PAGE_TIE,   /* the slot's key is long and agrees as far as it is inline: compare it whole */
} lk_page_answer;

/* Looks for a key among the slots from `low` on. After a tie the caller compares, and looks on: with
 * `high` at the slot where the key was less, with `low` behind it where it was greater. */
lk_page_answer lk_page_search(const uint8_t *p, uint32_t page_bytes, lk_bytes key, uint32_t low,
                              uint32_t high, uint32_t *out_slot);

/* Whether bytes from a file, whose checksum holds, are a page of this level and number. */
lk_status lk_page_check(const uint8_t *p, uint32_t page_bytes, const char *path, uint64_t offset,
                        lk_error *err);

/* ---- changing ---- */

void lk_page_init(uint8_t *p, uint32_t page_bytes, lk_page_kind kind, uint32_t level,
                  uint32_t left);
static inline void lk_page_set_left(uint8_t *p, uint32_t child) { lk_store32(p + 20, child); }

/* Whether the key begins as all in the page do, as far as it is inline. */
bool lk_page_shares(const uint8_t *p, uint32_t page_bytes, const lk_cell *cell);
/* Puts a cell that shares the prefix before `slot`; false where there is no room. */
bool lk_page_insert(uint8_t *p, uint32_t page_bytes, uint32_t slot, const lk_cell *cell);
void lk_page_remove(uint8_t *p, uint32_t page_bytes, uint32_t slot);

/* Appends the cells of a page to `cells`; they point into it. Gives the new count. */
uint32_t lk_page_gather(const uint8_t *p, uint32_t page_bytes, lk_cell *cells, uint32_t count);
/* Bytes that these take in one page, slots and prefix included. */
uint32_t lk_cells_bytes(const lk_cell *cells, uint32_t count);
/* Makes a page of them: kind, level and left child stay. They fit, and do not point into it. */
void lk_page_build(uint8_t *p, uint32_t page_bytes, const lk_cell *cells, uint32_t count);
/* Most cells that a page can have. */
static inline uint32_t lk_page_cells_max(uint32_t page_bytes)
{
    return (page_bytes - LK_PAGE_HEADER_BYTES) / (LK_SLOT_BYTES + 4);
}

#endif

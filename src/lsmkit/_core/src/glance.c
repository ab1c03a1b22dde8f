/* glance.c: see glance.h. */
#include "glance.h"

#include "bytes.h"
#include "frame.h"

/* The mapping, where the kernel has what was written: in the same boot. */
static void map(lk_glance *g)
{
    uint8_t bytes[LK_SEGMENT_HEADER_BYTES];
    lk_segment_header header;
    lk_segment *s = g->segment;
    uint64_t boot = lk_boot_number(s->env);
    if (boot == 0 || lk_file_read_exact(s->file, 0, bytes, sizeof bytes, NULL) != LK_OK ||
        lk_segment_header_parse(bytes, lk_file_path(s->file), &header, NULL) != LK_OK ||
        header.boot != boot) {
        return;
    }
    g->bytes = (size_t)lk_align_up(s->capacity, LK_PAGE_BYTES) + LK_PAGE_BYTES;
    if (lk_file_map(s->file, g->bytes, false, &g->base, NULL) != LK_OK) g->base = NULL;
}

void lk_glance_turn(lk_glance *g, lk_segment *segment, bool may_map)
{
    if (g->segment == segment) return;
    if (g->segment != NULL) lk_env_unmap(g->segment->env, g->base, g->bytes);
    lk_segment_unref(g->segment);
    *g = (lk_glance){.segment = segment};
    if (segment == NULL) return;
    lk_segment_ref(segment);
    if (may_map) map(g);
}

/* Its writer may be at it: what is torn is no header. */
static bool is_next(const lk_glance *g, uint32_t place)
{
    const lk_segment *s = g->segment;
    uint8_t bytes[LK_FRAME_HEADER_BYTES];
    size_t got = sizeof bytes;
    if (g->base == NULL) {
        if (lk_file_read(s->file, place, bytes, sizeof bytes, &got, NULL) != LK_OK) return true;
    } else {
        const _Atomic(uint64_t) *words = (const void *)(g->base + place);
        for (unsigned i = 0; i < sizeof bytes / 8; i++) {
            uint64_t word = atomic_load_explicit(&words[i], memory_order_acquire);
            memcpy(bytes + 8 * i, &word, 8);
        }
    }
    return lk_frame_header_is_next(bytes, got, s->nonce, place, s->link, s->count);
}

bool lk_glance_has_more(const lk_glance *g)
{
    uint32_t at = g->segment->position, page = (uint32_t)lk_align_up(at, LK_PAGE_BYTES);
    return is_next(g, at) || (page != at && is_next(g, page));
}

/* test_thread_manifest.c: readers take versions and numbers while edits are appended.
 *
 * Method: one thread appends; the others take the current version, walk it, and
 * give it back; built with the thread sanitizer.
 */
#include "harness.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "env_sim.h"
#include "manifest.h"

#include "version_model.h"

enum { READERS = 3, EDITS = 400 };

typedef struct shared {
    lk_manifest *manifest;
    atomic_bool is_over;
    _Atomic uint64_t given; /* sum of the numbers that readers were given */
} shared;

static void *read_versions(void *arg)
{
    shared *s = arg;
    uint64_t last = 0;
    do {
        lk_version *v = lk_manifest_version(s->manifest);
        CHECK(v->number >= last);
        last = v->number;
        const lk_tree_version *t = lk_version_tree(v, 0);
        for (uint32_t i = 0; t != NULL && i < t->range_count; i++) {
            for (uint32_t r = 0; r < t->ranges[i].run_count; r++) {
                const lk_run *run = &t->ranges[i].runs[r];
                const lk_table_meta *m = lk_table_meta_of(run->tables[0]);
                CHECK(lk_run_table(run, m->min_key, m->min_len) == run->tables[0]);
            }
        }
        lk_version_unref(v);
        CHECK(lk_manifest_last_seq(s->manifest) >= last);
        atomic_fetch_add(&s->given, lk_manifest_next_file(s->manifest));
    } while (!atomic_load(&s->is_over));
    return NULL;
}

LK_TEST(versions_are_read_while_edits_are_appended)
{
    uint64_t rng = lk_test_seed(), next = 1;
    lk_error err;
    shared s = {.manifest = NULL};
    pthread_t threads[READERS];
    lk_manifest_options options = {.rotate_bytes = 20000};
    model *m = calloc(1, sizeof *m), *tried = calloc(1, sizeof *tried);
    CHECK(m != NULL && tried != NULL);
    lk_sim *sim = lk_sim_new(1);
    CHECK(sim != NULL);
    CHECK_OK(lk_manifest_create(lk_sim_env(sim), "/", &options, NULL, &s.manifest, &err), &err);
    for (int i = 0; i < READERS; i++) {
        CHECK_EQ(pthread_create(&threads[i], NULL, read_versions, &s), 0);
    }
    while (m->number < EDITS) {
        model_ops ops;
        lk_edit e;
        model_random_ops(m, &rng, &next, &ops);
        memcpy(tried, m, sizeof *m);
        if (!model_apply(tried, &ops)) continue;
        memcpy(m, tried, sizeof *m);
        lk_edit_init(&e);
        model_edit(&ops, &e);
        e.last_seq = m->number;
        CHECK_OK(lk_manifest_append(s.manifest, &e, NULL, &err), &err);
        lk_edit_deinit(&e);
    }
    atomic_store(&s.is_over, true);
    for (int i = 0; i < READERS; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
    CHECK(atomic_load(&s.given) > 0);
    lk_version *v = lk_manifest_version(s.manifest);
    model_check(m, v);
    lk_version_unref(v);
    lk_manifest_close(s.manifest);
    lk_sim_free(sim);
    free(m);
    free(tried);
}

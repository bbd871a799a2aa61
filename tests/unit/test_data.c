#include "exec/data.h"

#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "tests/support/check.h"

enum { SEQ_LEN = 12, NUM_SAMPLES = 40 };
static const uint64_t seed = 77;

static int enter(void **state)
{
    *state = hlm_arena_new();
    return 0;
}

static int leave(void **state)
{
    hlm_arena_free(*state);
    return 0;
}

static struct hlm_model text_model(enum hlm_model_kind kind, int64_t vocab_size)
{
    return (struct hlm_model){.name = "m", .kind = kind, .vocab_size = vocab_size};
}

static const struct hlm_data *open_data(struct hlm_arena *arena, const char *path,
                                        const struct hlm_model *model, uint64_t with_seed)
{
    struct hlm_err err;
    const struct hlm_data *data = NULL;
    check_ok(hlm_data_open(arena, path, model, SEQ_LEN, with_seed, &data, &err), &err);
    return data;
}

static uint64_t key(const char *name)
{
    return hlm_hash(HLM_HASH_START, name, strlen(name)) ^ seed;
}

/* The header's formulas, element by element. */
static void test_synthetic_decoder(void **state)
{
    const struct hlm_model model = text_model(HLM_MODEL_DECODER, 1000);
    const struct hlm_data *data = open_data(*state, NULL, &model, seed);
    for (int64_t g = 0; g < NUM_SAMPLES; g++) {
        int32_t tokens[SEQ_LEN], targets[SEQ_LEN];
        hlm_data_sample(data, g, tokens, targets, NULL);
        for (int64_t j = 0; j <= SEQ_LEN; j++) {
            const int32_t expected =
                (int32_t)(hlm_rng_uniform(key("tokens"), (uint64_t)(g * (SEQ_LEN + 1) + j)) *
                          1000.0);
            assert_true(j == SEQ_LEN || tokens[j] == expected);
            assert_true(j == 0 || targets[j - 1] == expected);
        }
    }
    assert_int_equal(hlm_data_num_targets(data, 3, 5), 5 * SEQ_LEN);
}

/* The ranks of a cp group have the positions of the whole sample that are theirs. */
static void test_shares(void **state)
{
    static const enum hlm_model_kind kinds[] = {HLM_MODEL_DECODER, HLM_MODEL_ENCODER};
    for (int i = 0; i < 2; i++) {
        const struct hlm_model model = text_model(kinds[i], 1000);
        const struct hlm_data *data = open_data(*state, NULL, &model, seed);
        int32_t tokens[SEQ_LEN], targets[SEQ_LEN], own_tokens[SEQ_LEN], own_targets[SEQ_LEN];
        hlm_data_sample(data, 9, tokens, targets, NULL);
        for (int32_t rank = 0; rank < 3; rank++) {
            const struct hlm_context context = {.ranks = 3, .rank = rank, .chunks = 2 - i};
            hlm_data_share(data, &context, 9, own_tokens, own_targets, NULL);
            for (int64_t place = 0; place < SEQ_LEN / 3; place++) {
                const int64_t position = hlm_context_position(&context, SEQ_LEN, place);
                assert_int_equal(own_tokens[place], tokens[position]);
                assert_int_equal(own_targets[place], targets[position]);
            }
        }
    }
}

/* A sample is a function of index and seed alone: asked again, or for one half only, it is the
 * same. */
static void test_repeats(void **state)
{
    const struct hlm_model model = text_model(HLM_MODEL_DECODER, 1000);
    const struct hlm_data *data = open_data(*state, NULL, &model, seed);
    const struct hlm_data *other = open_data(*state, NULL, &model, seed + 1);
    int32_t tokens[SEQ_LEN], targets[SEQ_LEN], again[SEQ_LEN];
    hlm_data_sample(data, 9, tokens, targets, NULL);
    hlm_data_sample(data, 9, again, NULL, NULL);
    assert_memory_equal(tokens, again, sizeof tokens);
    hlm_data_sample(data, 9, NULL, again, NULL);
    assert_memory_equal(targets, again, sizeof targets);
    hlm_data_sample(data, 10, again, NULL, NULL);
    assert_memory_not_equal(tokens, again, sizeof tokens);
    hlm_data_sample(other, 9, again, NULL, NULL);
    assert_memory_not_equal(tokens, again, sizeof tokens);
}

static const char *write_text(struct hlm_arena *arena, const char *text, size_t length)
{
    struct hlm_err err;
    const char *path = hlm_arena_printf(arena, "%s/hlm_data.%ld.txt", P_tmpdir, (long)getpid());
    check_ok(hlm_file_write(path, text, length, &err), &err);
    return path;
}

static void test_text(void **state)
{
    enum { LENGTH = 500 };
    char text[LENGTH];
    for (int i = 0; i < LENGTH; i++) {
        text[i] = (char)(i * 7 + 200); /* above 127 too: bytes, not chars */
    }
    const struct hlm_model model = text_model(HLM_MODEL_DECODER, 256);
    const char *path = write_text(*state, text, LENGTH);
    const struct hlm_data *data = open_data(*state, path, &model, seed);
    unlink(path);
    for (int64_t g = 0; g < NUM_SAMPLES; g++) {
        const int64_t offset =
            (int64_t)(hlm_rng_uniform(key("offset"), (uint64_t)g) * (double)(LENGTH - SEQ_LEN));
        int32_t tokens[SEQ_LEN], targets[SEQ_LEN];
        hlm_data_sample(data, g, tokens, targets, NULL);
        for (int64_t j = 0; j < SEQ_LEN; j++) {
            assert_int_equal(tokens[j], (unsigned char)text[offset + j]);
            assert_int_equal(targets[j], (unsigned char)text[offset + j + 1]);
        }
    }
}

/* The last byte of the shortest legal file is reached and nothing behind it. */
static void test_shortest_text(void **state)
{
    const struct hlm_model model = text_model(HLM_MODEL_DECODER, 256);
    const char *path = write_text(*state, "0123456789abcd", SEQ_LEN + 2);
    const struct hlm_data *data = open_data(*state, path, &model, seed);
    unlink(path);
    bool seen[2] = {false, false};
    for (int64_t g = 0; g < NUM_SAMPLES; g++) {
        int32_t targets[SEQ_LEN];
        hlm_data_sample(data, g, NULL, targets, NULL);
        assert_true(targets[SEQ_LEN - 1] == 'c' || targets[SEQ_LEN - 1] == 'd');
        seen[targets[SEQ_LEN - 1] - 'c'] = true;
    }
    assert_true(seen[0] && seen[1]);
}

static void test_encoder(void **state)
{
    const struct hlm_model model = text_model(HLM_MODEL_ENCODER, 1000);
    const struct hlm_data *data = open_data(*state, NULL, &model, seed);
    int64_t num_masked = 0;
    for (int64_t g = 0; g < NUM_SAMPLES; g++) {
        int32_t tokens[SEQ_LEN], targets[SEQ_LEN];
        hlm_data_sample(data, g, tokens, targets, NULL);
        for (int64_t j = 0; j < SEQ_LEN; j++) {
            const int32_t original =
                (int32_t)(hlm_rng_uniform(key("tokens"), (uint64_t)(g * (SEQ_LEN + 1) + j)) *
                          1000.0);
            const bool masked = j == g % SEQ_LEN ||
                                hlm_rng_uniform(key("mask"), (uint64_t)(g * SEQ_LEN + j)) < 0.15;
            assert_int_equal(tokens[j], masked ? 999 : original);
            assert_int_equal(targets[j], masked ? original : -1);
            num_masked += masked ? 1 : 0;
        }
    }
    assert_int_equal(hlm_data_num_targets(data, 0, NUM_SAMPLES), num_masked);
    assert_int_equal(hlm_data_num_targets(data, 0, 10) + hlm_data_num_targets(data, 10, 30),
                     num_masked);
}

static void test_images(void **state)
{
    enum { CHANNELS = 3, SIZE = 4, PIXELS = CHANNELS * SIZE * SIZE };
    const struct hlm_model model = {
        .name = "m",
        .kind = HLM_MODEL_VIT,
        .vit = {.image_size = SIZE, .patch_size = 2, .num_classes = 10, .num_channels = CHANNELS}};
    const struct hlm_data *data = open_data(*state, NULL, &model, seed);
    for (int64_t g = 0; g < NUM_SAMPLES; g++) {
        float pixels[PIXELS];
        int32_t label = -1;
        hlm_data_sample(data, g, NULL, &label, pixels);
        assert_int_equal(label, (int32_t)(hlm_rng_uniform(key("labels"), (uint64_t)g) * 10.0));
        for (int64_t i = 0; i < PIXELS; i++) {
            const double expected = hlm_rng_normal(key("pixels"), (uint64_t)(g * PIXELS + i));
            check_close((double)pixels[i], (double)(float)expected, 0.0);
        }
    }
    assert_int_equal(hlm_data_num_targets(data, 5, 7), 7);
}

static void test_refusals(void **state)
{
    struct hlm_err err;
    const struct hlm_data *data = NULL;
    const struct hlm_model model = text_model(HLM_MODEL_DECODER, 256);
    const struct hlm_model narrow = text_model(HLM_MODEL_DECODER, 255);
    const struct hlm_model images = {.name = "m", .kind = HLM_MODEL_VIT};
    check_fails(hlm_data_open(*state, "no/such/file", &model, SEQ_LEN, seed, &data, &err),
                HLM_INPUT, &err, "no/such/file");
    const char *path = write_text(*state, "0123456789abc", SEQ_LEN + 1);
    check_fails(hlm_data_open(*state, path, &model, SEQ_LEN, seed, &data, &err), HLM_INPUT, &err,
                "at least seq_len + 2 = 14 bytes, found 13");
    check_fails(hlm_data_open(*state, path, &narrow, SEQ_LEN, seed, &data, &err), HLM_INPUT, &err,
                "vocab_size of at least 256");
    check_fails(hlm_data_open(*state, path, &images, SEQ_LEN, seed, &data, &err), HLM_INPUT, &err,
                "takes images");
    unlink(path);
    assert_null(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_synthetic_decoder, enter, leave),
        cmocka_unit_test_setup_teardown(test_shares, enter, leave),
        cmocka_unit_test_setup_teardown(test_repeats, enter, leave),
        cmocka_unit_test_setup_teardown(test_text, enter, leave),
        cmocka_unit_test_setup_teardown(test_shortest_text, enter, leave),
        cmocka_unit_test_setup_teardown(test_encoder, enter, leave),
        cmocka_unit_test_setup_teardown(test_images, enter, leave),
        cmocka_unit_test_setup_teardown(test_refusals, enter, leave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Where a model comes from: a built-in name, a file of ours, a Hugging Face config or its folder.
 */
#include "tests/support/check.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "profiles/model.h"

static const char config[] = "{\"model_type\": \"gpt2\", \"n_embd\": 128, \"n_head\": 4, "
                             "\"n_layer\": 3, \"n_positions\": 64, \"vocab_size\": 500}";

struct fixture {
    struct hlm_arena *arena;
    const char *folder;
};

static int set_up(void **state)
{
    struct hlm_arena *arena = hlm_arena_new();
    const char *base = getenv("TMPDIR");
    char *folder =
        hlm_arena_printf(arena, "%s/hlm_model_load_XXXXXX", base == NULL ? P_tmpdir : base);
    if (mkdtemp(folder) == NULL) {
        return -1;
    }
    struct fixture *fixture = HLM_ARENA_NEW(arena, struct fixture);
    *fixture = (struct fixture){arena, folder};
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    const struct fixture *fixture = *state;
    static const char *const files[] = {"config.json", "mine.json", "plan.json", "list.json"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        unlink(hlm_arena_printf(fixture->arena, "%s/%s", fixture->folder, files[i]));
    }
    const int status = rmdir(fixture->folder);
    hlm_arena_free(fixture->arena);
    return status;
}

static const char *write_file(const struct fixture *fixture, const char *name, const char *text)
{
    struct hlm_err err;
    const char *path = hlm_arena_printf(fixture->arena, "%s/%s", fixture->folder, name);
    check_ok(hlm_file_write(path, text, strlen(text), &err), &err);
    return path;
}

static void all_names_load(void **state)
{
    const struct fixture *fixture = *state;
    static const char *const names[] = {
        "gpt2-small",  "gpt2-medium",   "gpt2-large", "gpt2-xl",      "gpt3-1.3b",
        "gpt3-6.7b",   "gpt3-13b",      "gpt3-175b",  "megatron-22b", "megatron-530b",
        "megatron-1t", "llama2-7b",     "llama2-13b", "llama2-70b",   "llama3-8b",
        "llama3-70b",  "llama3.1-405b", "mistral-7b", "mixtral-8x7b", "deepseek-v3",
        "bert-base",   "bert-large",    "vit-l-16",   "vit-h-14",     "qwen3-235b-a22b",
    };
    const int count = (int)(sizeof names / sizeof names[0]);
    struct hlm_err err;
    for (int i = 0; i < count; i++) {
        const struct hlm_model *model = NULL;
        check_ok(hlm_model_load(fixture->arena, names[i], &model, &err), &err);
        assert_string_equal(model->name, names[i]);
    }
    assert_non_null(hlm_model_builtin_name(count - 1));
    assert_null(hlm_model_builtin_name(count));
    assert_null(hlm_model_builtin_name(-1));
}

static void files_load_by_their_content(void **state)
{
    const struct fixture *fixture = *state;
    struct hlm_err err;
    const struct hlm_model *model = NULL;
    const char *own = write_file(fixture, "mine.json",
                                 "{\"schema\": \"hlmplan.model\", \"version\": 1, "
                                 "\"name\": \"mine\", \"seq_len\": 8, \"hidden_size\": 12, "
                                 "\"num_layers\": 1, \"num_heads\": 3, \"vocab_size\": 10}");
    check_ok(hlm_model_load(fixture->arena, own, &model, &err), &err);
    assert_string_equal(model->name, "mine");
    assert_int_equal(model->ffn_size, 48);

    const char *foreign = write_file(fixture, "config.json", config);
    check_ok(hlm_model_load(fixture->arena, foreign, &model, &err), &err);
    assert_int_equal(model->hidden_size, 128);
    check_ok(hlm_model_load(fixture->arena, fixture->folder, &model, &err), &err);
    assert_int_equal(model->num_layers, 3);
    /* A folder is named like the model that was downloaded into it. */
    assert_string_equal(model->name, strrchr(fixture->folder, '/') + 1);
    const char *slashed = hlm_arena_printf(fixture->arena, "%s//", fixture->folder);
    check_ok(hlm_model_load(fixture->arena, slashed, &model, &err), &err);
    assert_string_equal(model->name, strrchr(fixture->folder, '/') + 1);
}

static void the_rest_is_refused(void **state)
{
    const struct fixture *fixture = *state;
    struct hlm_err err;
    const struct hlm_model *model = NULL;
    check_fails(hlm_model_load(fixture->arena, "gpt2-smal", &model, &err), HLM_INPUT, &err,
                "did you mean gpt2-small?");
    check_fails(hlm_model_load(fixture->arena, "zzzzzzzzzzzzzzzz", &model, &err), HLM_INPUT, &err,
                "built in: bert-base ");
    check_fails(hlm_model_load(fixture->arena, "", &model, &err), HLM_INPUT, &err, "no model \"\"");
    check_fails(hlm_model_load(fixture->arena, fixture->folder, &model, &err), HLM_INPUT, &err,
                "config.json");
    const char *plan =
        write_file(fixture, "plan.json", "{\"schema\": \"hlmplan.plan\", \"version\": 1}");
    check_fails(hlm_model_load(fixture->arena, plan, &model, &err), HLM_INPUT, &err,
                "hlmplan.model");
    const char *list = write_file(fixture, "list.json", "[1, 2]");
    check_fails(hlm_model_load(fixture->arena, list, &model, &err), HLM_INPUT, &err, "an object");
    const char *broken = write_file(fixture, "list.json", "{\"model_type\": ");
    check_fails(hlm_model_load(fixture->arena, broken, &model, &err), HLM_INPUT, &err, "list.json");
    assert_null(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(all_names_load, set_up, tear_down),
        cmocka_unit_test_setup_teardown(files_load_by_their_content, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_rest_is_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("model_load", tests, NULL, NULL);
}

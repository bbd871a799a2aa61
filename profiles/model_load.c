#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/opt.h"
#include "profiles/builtin.h"
#include "profiles/model.h"

static const char folder[] = "models";

enum { MAX_FILE_BYTES = 16 * 1024 * 1024 };

const char *hlm_model_builtin_name(int index)
{
    const struct hlm_builtin *builtin = hlm_builtin_at(folder, index);
    return builtin == NULL ? NULL : builtin->name;
}

static enum hlm_status read_own(struct hlm_arena *arena, const char *where, const char *text,
                                size_t length, const struct hlm_model **out, struct hlm_err *err)
{
    struct hlm_model *model = HLM_ARENA_NEW(arena, struct hlm_model);
    HLM_TRY(hlm_json_read_text(arena, where, text, length, &hlm_model_table, model, err));
    hlm_model_complete(model);
    HLM_TRY(hlm_model_validate(model, where, err));
    *out = model;
    return HLM_OK;
}

static enum hlm_status read_file(struct hlm_arena *arena, const char *path,
                                 const struct hlm_model **out, struct hlm_err *err)
{
    const char *text = NULL, *kind = NULL;
    size_t length = 0;
    HLM_TRY(hlm_file_read(arena, path, MAX_FILE_BYTES, &text, &length, err));
    HLM_TRY(hlm_json_peek_kind(arena, path, text, length, &kind, err));
    /* Our own files say what they are; whatever doesn't is taken for Hugging Face's. */
    if (kind == NULL) {
        return hlm_model_import_hf(arena, path, text, length, out, err);
    }
    return read_own(arena, path, text, length, out, err);
}

static enum hlm_status fail_unknown(struct hlm_arena *arena, const char *name, struct hlm_err *err)
{
    struct hlm_text list;
    hlm_text_init(&list, arena);
    int count = 0;
    for (; hlm_model_builtin_name(count) != NULL; count++) {
        hlm_text_printf(&list, "%s%s", count == 0 ? "" : " ", hlm_model_builtin_name(count));
    }
    const char **names = HLM_ARENA_ARRAY(arena, const char *, count + 1);
    for (int i = 0; i < count; i++) {
        names[i] = hlm_model_builtin_name(i);
    }
    const char *nearest = hlm_opt_nearest(name, names);
    const char *guess =
        nearest == NULL ? "" : hlm_arena_printf(arena, ", did you mean %s?", nearest);
    return hlm_fail(err, HLM_INPUT,
                    "no model \"%.200s\": neither a built-in name nor a file%s (built in: %s)",
                    name, guess, list.text);
}

enum hlm_status hlm_model_load(struct hlm_arena *arena, const char *name_or_path,
                               const struct hlm_model **out, struct hlm_err *err)
{
    const struct hlm_builtin *builtin = hlm_builtin_find(folder, name_or_path);
    if (builtin != NULL) {
        return read_own(arena, name_or_path, builtin->text, builtin->length, out, err);
    }
    const bool is_stdin = strcmp(name_or_path, "-") == 0;
    struct stat status = {0};
    if (!is_stdin && stat(name_or_path, &status) != 0) {
        return fail_unknown(arena, name_or_path, err);
    }
    if (S_ISDIR(status.st_mode)) {
        return read_file(arena, hlm_arena_printf(arena, "%s/config.json", name_or_path), out, err);
    }
    return read_file(arena, name_or_path, out, err);
}

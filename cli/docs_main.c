/* hlm_docs: the pages that follow from the program's tables, written or checked.
 *
 * docs/schema-<kind>.md from the field tables, docs/hlmplan.1 and the README's section on commands
 * (between the two marks below) from the option tables. "hlm_docs write ROOT" brings them up to
 * date; "hlm_docs check ROOT" names the pages that are not and exits with 1.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"
#include "compare/compare.h"
#include "compare/validate.h"
#include "planner/explain.h"
#include "planner/front.h"
#include "planner/measurement.h"
#include "planner/plan.h"
#include "schedule/timeline.h"

#define MARK_BEGIN "<!-- commands: written by hlm_docs -->\n"
#define MARK_END "<!-- end of commands -->\n"

enum { MAX_PAGE_BYTES = 16 << 20 };

static const struct hlm_json_table *const kinds[] = {
    &hlm_model_table,      &hlm_device_table,      &hlm_cluster_table,    &hlm_plan_table,
    &hlm_timeline_table,   &hlm_measurement_table, &hlm_comparison_table, &hlm_explanation_table,
    &hlm_validation_table, &hlm_front_table};
enum { NUM_KINDS = sizeof(kinds) / sizeof(kinds[0]) };

struct docs {
    struct hlm_arena *arena;
    const char *root;
    bool write;
    int num_pages, num_outdated;
};

/* Writes or compares one page. A page that is not there is out of date. */
static enum hlm_status visit_page(struct docs *docs, const char *path, const char *text,
                                  struct hlm_err *err)
{
    docs->num_pages++;
    const char *old = "";
    size_t length = 0;
    struct hlm_err missing;
    const bool there =
        hlm_file_read(docs->arena, path, MAX_PAGE_BYTES, &old, &length, &missing) == HLM_OK;
    if (there && length == strlen(text) && memcmp(old, text, length) == 0) {
        return HLM_OK;
    }
    docs->num_outdated++;
    if (!docs->write) {
        printf("out of date: %s\n", path);
        return HLM_OK;
    }
    printf("written: %s\n", path);
    return hlm_file_write(path, text, strlen(text), err);
}

static enum hlm_status visit_schemas(struct docs *docs, struct hlm_err *err)
{
    for (int i = 0; i < NUM_KINDS; i++) {
        const char *path =
            hlm_arena_printf(docs->arena, "%s/docs/schema-%s.md", docs->root, kinds[i]->kind);
        HLM_TRY(visit_page(docs, path, hlm_json_document(docs->arena, kinds[i]), err));
    }
    return HLM_OK;
}

/* What a printing function prints. */
static enum hlm_status capture(struct docs *docs, void (*print)(FILE *out, struct docs *docs),
                               const char **out, struct hlm_err *err)
{
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    if (stream == NULL) {
        return hlm_fail(err, HLM_FAILED, "cannot open a stream in memory");
    }
    print(stream, docs);
    const bool closed = fclose(stream) == 0;
    if (closed) {
        *out = hlm_arena_strndup(docs->arena, text, length);
    }
    free(text);
    return closed ? HLM_OK : hlm_fail(err, HLM_FAILED, "cannot write to memory");
}

static void print_man(FILE *out, struct docs *docs)
{
    hlm_opt_man(out, HLM_PROGRAM, HLM_TAGLINE, hlm_commands(docs->arena));
}

static void print_markdown(FILE *out, struct docs *docs)
{
    hlm_opt_markdown(out, HLM_PROGRAM, hlm_commands(docs->arena));
}

static enum hlm_status visit_man(struct docs *docs, struct hlm_err *err)
{
    const char *text = NULL;
    HLM_TRY(capture(docs, print_man, &text, err));
    return visit_page(docs, hlm_arena_printf(docs->arena, "%s/docs/hlmplan.1", docs->root), text,
                      err);
}

static enum hlm_status visit_readme(struct docs *docs, struct hlm_err *err)
{
    const char *path = hlm_arena_printf(docs->arena, "%s/README.md", docs->root);
    const char *old = NULL, *section = NULL;
    size_t length = 0;
    HLM_TRY(hlm_file_read(docs->arena, path, MAX_PAGE_BYTES, &old, &length, err));
    const char *begin = strstr(old, MARK_BEGIN);
    const char *end = begin == NULL ? NULL : strstr(begin, MARK_END);
    if (end == NULL) {
        return hlm_fail(err, HLM_INPUT, "%s: expected the lines \"%.*s\" and \"%.*s\"", path,
                        (int)strlen(MARK_BEGIN) - 1, MARK_BEGIN, (int)strlen(MARK_END) - 1,
                        MARK_END);
    }
    HLM_TRY(capture(docs, print_markdown, &section, err));
    const char *text = hlm_arena_printf(docs->arena, "%.*s%s\n%s%s", (int)(begin - old), old,
                                        MARK_BEGIN, section, end);
    return visit_page(docs, path, text, err);
}

static enum hlm_status visit_all(struct docs *docs, struct hlm_err *err)
{
    HLM_TRY(visit_schemas(docs, err));
    HLM_TRY(visit_man(docs, err));
    HLM_TRY(visit_readme(docs, err));
    printf("%d pages, %d %s\n", docs->num_pages, docs->num_outdated,
           docs->write ? "written" : "out of date");
    return docs->write || docs->num_outdated == 0
               ? HLM_OK
               : hlm_fail(err, HLM_NO, "\"hlm_docs write %s\" brings them up to date", docs->root);
}

int main(int argc, char **argv)
{
    const bool write = argc == 3 && strcmp(argv[1], "write") == 0;
    const bool check = argc == 3 && strcmp(argv[1], "check") == 0;
    if (!write && !check) {
        fprintf(stderr, "usage: hlm_docs write|check ROOT\n");
        return HLM_USAGE;
    }
    struct docs docs = {.arena = hlm_arena_new(), .root = argv[2], .write = write};
    struct hlm_err err = {.status = HLM_OK};
    const enum hlm_status status = visit_all(&docs, &err);
    if (status != HLM_OK) {
        fprintf(stderr, "hlm_docs: %s\n", err.text);
    }
    hlm_arena_free(docs.arena);
    return (int)status;
}

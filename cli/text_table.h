/* text_table: columns of text for people, as wide as their longest cell. */
#ifndef HLM_CLI_TEXT_TABLE_H
#define HLM_CLI_TEXT_TABLE_H

#include <stdio.h>

#include "base/arena.h"

struct hlm_text_table {
    struct hlm_arena *arena;
    const char *const *headers; /* [num_columns] */
    int num_columns;
    const char **cells; /* [num_rows * num_columns] */
    int num_rows, capacity;
};

/* `headers` ends with NULL and outlives the table; a header that starts with '>' names a column of
 * numbers, which is aligned to the right (the sign is not printed). */
void hlm_text_table_init(struct hlm_text_table *table, struct hlm_arena *arena,
                         const char *const *headers);

/* Adds a row; `cells` holds a text for each column, which is copied. */
void hlm_text_table_add(struct hlm_text_table *table, const char *const *cells);

/* Prints header line and rows, each indented by `indent` blanks, two blanks between columns. */
void hlm_text_table_print(const struct hlm_text_table *table, FILE *out, int indent);

#endif

#include <string.h>

#include "base/opt.h"

enum { MAX_WORD = 64 };

static int min3(int a, int b, int c)
{
    const int ab = a < b ? a : b;
    return ab < c ? ab : c;
}

/* Edits (insert, drop, replace or swap two neighbours of one character each) from a to b: optimal
 * string alignment. Both are at most MAX_WORD long. */
static int edit_distance(const char *a, const char *b)
{
    const int rows = (int)strlen(a), columns = (int)strlen(b);
    int cost[MAX_WORD + 1][MAX_WORD + 1];
    for (int i = 0; i <= rows; i++) {
        for (int j = 0; j <= columns; j++) {
            if (i == 0 || j == 0) {
                cost[i][j] = i + j;
                continue;
            }
            const int replace = cost[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            cost[i][j] = min3(cost[i - 1][j] + 1, cost[i][j - 1] + 1, replace);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                const int swap = cost[i - 2][j - 2] + 1;
                cost[i][j] = swap < cost[i][j] ? swap : cost[i][j];
            }
        }
    }
    return cost[rows][columns];
}

const char *hlm_opt_nearest(const char *word, const char *const *texts)
{
    const char *nearest = NULL;
    int least = MAX_WORD;
    const size_t length = strlen(word);
    for (int i = 0; length <= MAX_WORD && texts[i] != NULL; i++) {
        if (strlen(texts[i]) > MAX_WORD) {
            continue;
        }
        const int distance = edit_distance(word, texts[i]);
        /* A third of the letters wrong is another word, not a slip. */
        const int near = (int)(length < 3 ? 1 : (length + 2) / 3);
        if (distance <= near && distance < least) {
            nearest = texts[i];
            least = distance;
        }
    }
    return nearest;
}

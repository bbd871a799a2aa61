/* control: what ranks (heartbeat.c) and launcher (launch.c) say to each other.
 *
 * HLM_CONTROL holds "unix:<word>:<path>" or "tcp:<word>:<port>:<address>,<address>,..." (numeric
 * addresses, tried in order). The word is random hexadecimal: a connection whose first line does
 * not hold it is closed. A rank sends lines that end with '\n', at most HLM_CONTROL_LINE bytes, of
 * a word and its fields:
 *
 *   hello <word> <rank> <pid> <host>     first; answered by "welcome\n", the only line to a rank
 *   beat <counter> <waiting 0|1> <what>  every HLM_CONTROL_BEAT_MS; the counter grows with progress
 *   progress <text>                      for the user
 *   error <time> <status> <text>         time: CLOCK_REALTIME in nanoseconds; the rank fails
 *   done                                 last; the end of the connection without it is a failure
 */
#ifndef HLM_EXEC_CONTROL_H
#define HLM_EXEC_CONTROL_H

#define HLM_CONTROL_VARIABLE "HLM_CONTROL"
#define HLM_CONTROL_BEAT_MS 500
#define HLM_CONTROL_WELCOME "welcome\n"
enum { HLM_CONTROL_LINE = 1400, HLM_CONTROL_MAX_ADDRESSES = 8 };

#define HLM_CONTROL_MAP(X)                                                                         \
    X(HELLO, "hello") X(BEAT, "beat") X(PROGRESS, "progress") X(ERROR, "error") X(DONE, "done")
enum hlm_control_message {
#define X(name, text) HLM_CONTROL_##name,
    HLM_CONTROL_MAP(X)
#undef X
        HLM_CONTROL_NUM_MESSAGES
};

#endif

# table: the Markdown tables of a validation page from lines of figures.awk, and the summary above them.
#
#   awk -F '\t' -f table.awk rows figures
#
# rows: the list's columns (name, model, batch, seq, dtype, devices, rank, torch, set) and a tenth, the status:
# "measured", or why there are no figures. figures: lines of figures.awk, by name.
function seconds(s) { return s < 1e-3 ? sprintf("%.0f us", s * 1e6) : s < 1 ? sprintf("%.3g ms", s * 1e3) : sprintf("%.3g s", s) }
function gib(bytes) { return sprintf("%.2f", bytes / 1073741824) }
function percent(frac) { return sprintf("%+.1f %%", 100 * frac) }
function magnitude(x) { return x < 0 ? -x : x }
function count(x) { return x >= 1e6 ? sprintf("%.2f M", x / 1e6) : x >= 1e4 ? sprintf("%.1f K", x / 1e3) : sprintf("%.0f", x) }
# Adds an error to the statistics of a kind.
function take(kind, error, name) {
    num[kind]++
    sum[kind] += magnitude(error)
    if (num[kind] == 1 || magnitude(error) > magnitude(worst[kind])) { worst[kind] = error; worst_name[kind] = name }
}
function statistic(kind, label) {
    if (num[kind] > 0) {
        printf "| %s | %d | %.1f %% | %s (%s) |\n", label, num[kind], 100 * sum[kind] / num[kind], percent(worst[kind]), worst_name[kind]
    }
}
# Largest relative difference of the losses of two runs, over the steps that both have.
function loss_difference(a, b,    x, y, n, i, largest, d) {
    n = split(a, x, " ")
    if (split(b, y, " ") < n) { n = split(b, y, " ") }
    for (i = 1; i <= n; i++) {
        d = magnitude(x[i] - y[i]) / (magnitude(x[i]) > 1e-300 ? magnitude(x[i]) : 1e-300)
        if (!(d <= largest)) { largest = d }
    }
    return largest + 0
}
# The settings of --set that are no degree of the layout, shortened.
function settings(set) {
    gsub(/microbatch_size=/, "microbatch ", set)
    gsub(/recompute=/, "recompute ", set)
    gsub(/sp=true/, "sp", set)
    gsub(/=/, " ", set)
    gsub(/,/, ", ", set)
    return set
}

FNR == 1 { num_files++ }
num_files == 1 { order[++num_rows] = $1; model[$1] = $2; sub(/.*\//, "", model[$1]); sub(/\.json$/, "", model[$1]); batch[$1] = $3; seq[$1] = $4; dtype[$1] = $5; set[$1] = $9; status[$1] = $10; group[$1] = $2 " " $3 " " $4 " " $5; next }
{ for (i = 2; i <= 16; i++) { figure[$1, i] = $i } }

END {
    for (i = 1; i <= num_rows; i++) {
        name = order[i]
        if (status[name] != "measured") { num_missing++; continue }
        num_measured++
        ratio = figure[name, 3] / figure[name, 4]
        tokens[name] = figure[name, 5] * ratio
        mfu[name] = figure[name, 6] * ratio
        is_rank = figure[name, 2] ~ /^rank/
        predicted[name] = figure[name, is_rank ? 15 : 3]
        measured[name] = figure[name, is_rank ? 16 : 4]
        error[name] = predicted[name] / measured[name] - 1
        take(is_rank ? "rank" : "time", error[name], name)
        if (figure[name, 9] != "-" && figure[name, 8] > 0) {
            memory_error[name] = figure[name, 7] / figure[name, 8] - 1
            take("memory", memory_error[name], name)
        }
        if (figure[name, 10] + 0 > 0) {
            torch_ratio[name] = tokens[name] / figure[name, 10]
            num_torch++
            log_sum += log(torch_ratio[name])
        }
        if (!is_rank && figure[name, 12] != "-") {
            if (!(group[name] in first)) { first[group[name]] = name } else {
                loss_error[name] = loss_difference(figure[first[group[name]], 12], figure[name, 12])
            }
        }
    }
    printf "%d of %d configurations measured", num_measured + 0, num_rows
    print (num_missing > 0 ? "; why the others were not stands in their rows.\n" : ".\n")
    if (num_measured > 0) {
        print "| predicted against measured | configurations | mean absolute error | worst error |"
        print "|---|---|---|---|"
        statistic("time", "step time")
        statistic("rank", "computing of one rank")
        statistic("memory", "peak memory")
        print ""
    }
    if (num_torch > 0) {
        printf "Tokens per second over PyTorch's: %.2f (geometric mean of %d).\n\n", exp(log_sum / num_torch), num_torch
    }
    print "| configuration | model | batch x length | setting | ran as | predicted | measured | error | memory predicted, GiB | memory measured, GiB | error | tokens/s | MFU | PyTorch tokens/s | ratio | loss differs by |"
    print "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    for (i = 1; i <= num_rows; i++) {
        name = order[i]
        printf "| %s | %s | %s x %s | %s, %s |", name, model[name], batch[name], seq[name], dtype[name], settings(set[name])
        if (status[name] != "measured") {
            printf " %s | | | | | | | | | | | |\n", status[name]
            continue
        }
        printf " %s | %s | %s | %s |", figure[name, 2] (figure[name, 14] == "0" ? ", no step undisturbed" : ""), seconds(predicted[name]), seconds(measured[name]), percent(error[name])
        if (name in memory_error) {
            printf " %s | %s | %s |", gib(figure[name, 7]), gib(figure[name, 8]), percent(memory_error[name])
        } else {
            printf " - | - | - |"
        }
        printf " %s | %.1f %% |", count(tokens[name]), 100 * mfu[name]
        printf " %s | %s |", (figure[name, 10] + 0 > 0 ? count(figure[name, 10]) : "-") (figure[name, 11] != "-" ? " (" figure[name, 11] ")" : ""), (name in torch_ratio) ? sprintf("%.2f", torch_ratio[name]) : "-"
        printf " %s |\n", (name in loss_error) ? sprintf("%.1e", loss_error[name]) : "-"
    }
    for (i = 1; i <= num_rows; i++) {
        name = order[i]
        # 1e-4: sums in another order in fp32 over a few steps. bf16 rounds at other places in other layouts.
        limit = dtype[name] == "fp32" ? 1e-4 : 2e-2
        if ((name in loss_error) && !(loss_error[name] <= limit)) {
            num_unequal++
            printf "\n**%s ends at other losses than %s**: relative difference %.1e, at most %.0e expected in %s.\n", name, first[group[name]], loss_error[name], limit, dtype[name]
        }
    }
    exit num_unequal > 0 ? 1 : 0
}

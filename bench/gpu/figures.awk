# figures: one line of tab-separated figures from the files of one row of a list.
#
#   awk -v name=NAME -f figures.awk plan.json comparison.json measured.json [torch.json]
#
# name, kind, predicted_s, measured_s, predicted tokens/s, predicted MFU, predicted bytes, measured bytes, "used" (the
# device's own count) or "held" (what the run allocated), PyTorch's tokens/s, PyTorch's note, the losses, the library, clean steps, predicted and measured seconds of
# computing alone (of an emulated rank, whose waiting and communication are the prediction). Absent figures are "-". Files are those of hlmplan and of pytorch_gpt.py: one key a line, two spaces a level.
function value_of(line) {
    sub(/^ *"[^"]*": /, "", line)
    sub(/,$/, "", line)
    gsub(/^"|"$/, "", line)
    return line
}
function key_of(line) {
    sub(/^ *"/, "", line)
    sub(/".*/, "", line)
    return line
}
function or_dash(text) { return text == "" ? "-" : text }

FNR == 1 { section = ""; file = FILENAME; sub(/.*\//, "", file) }
/^  "/ {
    section = key_of($0)
    top[file, section] = value_of($0)
}
file == "plan.json" && section == "prediction" && /^    "(tokens_per_s|mfu)"/ { plan[key_of($0)] = value_of($0) }
file == "plan.json" && section == "prediction" && /^        "stage":/ { stage = value_of($0) }
file == "plan.json" && section == "prediction" && /^        "fixed_bytes":/ { fixed[stage] = value_of($0) }
file == "plan.json" && section == "prediction" && /^        "peak_bytes":/ { peak[stage] = value_of($0) }
file == "measured.json" && section == "memory" && /^      "stage":/ { stage = value_of($0) }
file == "measured.json" && section == "memory" && /^      "peak_bytes":/ {
    if (value_of($0) + 0 > held) { held = value_of($0) + 0; held_stage = stage }
}
file == "measured.json" && section == "memory" && /^      "device_used_bytes":/ {
    if (value_of($0) + 0 > used) { used = value_of($0) + 0; used_stage = stage }
}
file == "measured.json" && section == "steps" && /^      "loss":/ { losses = losses (losses == "" ? "" : " ") value_of($0) }
file == "measured.json" && section == "machine" && /^    "backend_library":/ { library = value_of($0) }
END {
    if (used > 0) {
        how = "used"; measured_bytes = used; predicted_bytes = peak[used_stage]
    } else if (held > 0) {
        how = "held"; measured_bytes = held; predicted_bytes = peak[held_stage] - fixed[held_stage]
    }
    rank = top["measured.json", "emulated_rank"]
    ranks = top["measured.json", "num_ranks"]
    kind = rank ~ /^[0-9]+$/ ? "rank " rank " of " ranks : ranks + 0 <= 1 ? "whole" : ranks " ranks, " top["measured.json", "transport"]
    if (top["comparison.json", "virtual_time"] == "true") { kind = kind ", in virtual time" }
    OFS = "\t"
    print name, kind, or_dash(top["comparison.json", "predicted_s"]), or_dash(top["comparison.json", "measured_s"]),
        or_dash(plan["tokens_per_s"]), or_dash(plan["mfu"]), sprintf("%.0f", predicted_bytes),
        sprintf("%.0f", measured_bytes), or_dash(how), or_dash(top["torch.json", "tokens_per_s"]),
        or_dash(top["torch.json", "note"]), or_dash(losses), or_dash(library),
        or_dash(top["comparison.json", "num_clean_steps"]), or_dash(top["comparison.json", "compute_predicted_s"]),
        or_dash(top["comparison.json", "compute_measured_s"])
}

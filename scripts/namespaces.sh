# namespaces.sh, sourced: several machines on one, each a network namespace with its own address and its own rate.
#
#   namespaces_up RATE...     a namespace for each rate (tc's words: 1gbit, 100mbit), joined by a switch; what one sends
#                             and what it receives are shaped to its rate. Returns 77 where that can't be had.
#   namespaces_down           removes them and what still runs in them; call it in a trap
#   namespaces_hosts          "10.77.0.1,10.77.0.2,...": the machines, for --hosts
#   namespaces_exec I CMD...  runs a command on machine I (0, 1, ...), with Open MPI told how to reach the others
#
# Names of namespaces hold the process id, so runs beside each other don't meet. Needs root, iproute2 and tbf.
namespaces_prefix=hlm$$
namespaces_num=0
namespaces_folder=
namespaces_agent=

namespaces_hosts() {
    local i hosts=
    for ((i = 1; i <= namespaces_num; i++)); do
        hosts+=${hosts:+,}10.77.0.$i
    done
    echo "$hosts"
}

# One machine: RATE. Its interface is e<number>, the switch's end of the cable p<number>.
namespaces_add() {
    local i=$namespaces_num name=$namespaces_prefix-$namespaces_num switch=$namespaces_prefix-switch
    ip netns add "$name" && namespaces_num=$((namespaces_num + 1)) &&
        ip link add "e$i" netns "$name" type veth peer name "p$i" netns "$switch" &&
        ip -n "$name" addr add "10.77.0.$((i + 1))/24" dev "e$i" &&
        ip -n "$name" link set lo up && ip -n "$name" link set "e$i" up &&
        ip -n "$switch" link set "p$i" master bridge up &&
        ip netns exec "$name" tc qdisc add dev "e$i" root tbf rate "$1" burst 64kb latency 100ms &&
        ip netns exec "$switch" tc qdisc add dev "p$i" root tbf rate "$1" burst 64kb latency 100ms || return
    # bbr, where it is the default, slows down every ten seconds; idle connections shall not start anew.
    ip netns exec "$name" sysctl -qw net.ipv4.tcp_congestion_control=reno net.ipv4.tcp_slow_start_after_idle=0 \
        2>/dev/null || true
}

# How mpirun starts its daemon on another machine: in the place of ssh. Machines have folders of their own for what is
# temporary, or the daemons would race for one by the name of the machine that they all are.
namespaces_write_agent() {
    local i
    namespaces_folder=$(mktemp -d) || return
    namespaces_agent=$namespaces_folder/agent
    for ((i = 0; i < namespaces_num; i++)); do
        mkdir "$namespaces_folder/$i" || return
    done
    cat >"$namespaces_agent" <<END
#!/usr/bin/env bash
index=\$((\${1##*.} - 1))
shift
export TMPDIR=$namespaces_folder/\$index
exec ip netns exec $namespaces_prefix-\$index bash -c "\$*"
END
    chmod +x "$namespaces_agent"
}

namespaces_up() {
    local rate
    if [ "$(id -u)" -ne 0 ] || ! command -v ip >/dev/null || ! command -v tc >/dev/null; then
        return 77
    fi
    ip netns add "$namespaces_prefix-switch" 2>/dev/null || return 77
    ip -n "$namespaces_prefix-switch" link add bridge type bridge 2>/dev/null || return 77
    ip -n "$namespaces_prefix-switch" link set bridge up || return 77
    for rate in "$@"; do
        namespaces_add "$rate" 2>/dev/null || return 77
    done
    namespaces_write_agent
}

namespaces_down() {
    local name pids
    for name in $(ip netns list 2>/dev/null | awk -v prefix="$namespaces_prefix-" 'index($1, prefix) == 1 { print $1 }'); do
        pids=$(ip netns pids "$name" 2>/dev/null) || pids=
        [ -z "$pids" ] || kill -9 $pids 2>/dev/null || true
        ip netns del "$name" || true
    done
    [ -z "$namespaces_folder" ] || rm -rf "$namespaces_folder"
}

namespaces_exec() {
    local index=$1
    shift
    ip netns exec "$namespaces_prefix-$index" env TMPDIR="$namespaces_folder/$index" \
        OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_plm_rsh_agent="$namespaces_agent" \
        OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,tcp OMPI_MCA_btl_tcp_if_include=10.77.0.0/24 \
        OMPI_MCA_oob_tcp_if_include=10.77.0.0/24 OMPI_MCA_hwloc_base_binding_policy=none \
        OMPI_MCA_mpi_yield_when_idle=1 "$@"
}

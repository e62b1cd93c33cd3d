# Removes what a world made, once the process that made it is gone or says so.
#
# Standard input is a pipe from that process: lines "namespace NAME" and "directory PATH" as they
# are made. When the pipe ends - the world was dropped, the process exited, was interrupted or
# killed - everything is removed by its exact name. The line "keep" leaves everything.
namespaces=
directories=
while IFS=' ' read -r verb name; do
    case $verb in
    namespace) namespaces="$namespaces $name" ;;
    directory) directories="$directories $name" ;;
    keep) exit 0 ;;
    esac
done
for namespace in $namespaces; do
    pids=$(ip netns pids "$namespace" 2>/dev/null) && [ -n "$pids" ] && kill -KILL $pids
done
# A killed process holds its sockets and devices for a moment longer.
for namespace in $namespaces; do
    tries=0
    while [ -n "$(ip netns pids "$namespace" 2>/dev/null)" ] && [ $tries -lt 50 ]; do
        sleep 0.02
        tries=$((tries + 1))
    done
    [ -e "/run/netns/$namespace" ] && ip netns del "$namespace"
done
for directory in $directories; do
    rm -rf "$directory"
done
exit 0

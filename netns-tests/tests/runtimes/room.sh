# The first process of a room of its own: processes and mounts of nobody else are there, and with its
# end all of them end. Runtimes have paths that no option changes; in the room each is empty.
for place in /run /dev/shm /var/lib /etc/cni /opt; do
    mount -t tmpfs tmpfs "$place"
done
mkdir -p /run/netns /etc/cni/net.d /opt/cni/bin /var/lib/cni
# What is mounted there on the machine may be of both versions, which crun does not take.
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# The shell stays: it waits for processes that have lost their parents.
status=0
"$@" || status=$?
exit $status

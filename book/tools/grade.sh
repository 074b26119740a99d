#!/bin/sh
# Grade a class in one command: students' code runs as another user, without network, and cannot read the course folder.
#
#   cd course && sh .../book/tools/grade.sh hw1 [USER]     as root of a container or of a virtual machine, with Linux
#
# Each notebook's kernel is started as USER (nobody, unless told) in a network of its own and with a home of its own, and
# nothing that it starts outlives it. It talks to nbgrader through sockets in a folder that both may enter. The course
# folder, with solutions, gradebook and hidden tests, is root's alone, and so is everything that root runs.
set -eu
assignment=${1:?which assignment? say for example: sh grade.sh hw1} user=${2:-nobody}
if [ "$(id -u)" -ne 0 ] || [ "$(id -u "$user")" -eq 0 ]; then
    echo "grade.sh: run it as root, for a USER who is not root; students' code would run as you here" >&2
    exit 1
fi
chmod 700 .
as_user="setpriv --reuid=$user --regid=$(id -g "$user") --clear-groups --no-new-privs --bounding-set=-all"
if unshare --net --pid --fork --kill-child true 2>/dev/null; then
    without_network="unshare --net --pid --fork --kill-child" end_others=true
elif ! grep -qv '^Iface' /proc/net/route && ! grep -qsv ' lo$' /proc/net/ipv6_route; then
    # A container that was started without network: no route leads out of it, and the user has no other processes in it.
    without_network= end_others="$as_user sh -c 'kill -9 -1 2>/dev/null'"
else
    echo "grade.sh: students' code would have a network here; start the container with --network none" >&2
    exit 1
fi
apart=$(mktemp -d)
trap 'rm -rf "$apart"' EXIT
chmod 711 "$apart"
mkdir -p "$apart/kernels/python3" "$apart/sockets"
mkdir -m 711 "$apart/homes" "$apart/connections"
chown "$user" "$apart/sockets"
cat > "$apart/kernels/python3/kernel.json" <<END
{"argv": ["sh", "$apart/start.sh", "{connection_file}"], "display_name": "apart", "language": "python"}
END
cat > "$apart/python.sh" <<END
$end_others
home=\$(mktemp -d "$apart/homes/XXXXXX")
chown "$user" "\$home"
cd "\$home"
exec $without_network $as_user \\
    env -i PATH="$PATH" HOME="\$home" PYTHONPATH="${PYTHONPATH-}" VLMCOURSE_DEVICE=cpu OMP_NUM_THREADS="${OMP_NUM_THREADS-1}" \\
    "$(command -v python)" "\$@"
END
cat > "$apart/start.sh" <<END
install -o "$user" -m 600 "\$1" "$apart/connections/\$\$.json"
exec sh "$apart/python.sh" -m ipykernel_launcher -f "$apart/connections/\$\$.json" --HistoryManager.enabled=False
END
if ! sh "$apart/python.sh" -c "import ipykernel, vlmcourse.homework"; then
    echo "grade.sh: as user $user, $(command -v python) does not start or finds no ipykernel or vlmcourse. May only root enter" \
        "its folder, or that of the Python it was made from, as with /root? Make the environment elsewhere, as in /opt" >&2
    exit 1
fi
export JUPYTER_PATH="$apart"
status=0 left=
for folder in submitted/*/"$assignment"; do
    [ -d "$folder" ] || { echo "grade.sh: nobody has handed in: there is no submitted/NAME/$assignment here" >&2; exit 1; }
    student=$(basename "$(dirname "$folder")")
    echo "grade.sh: $student"
    # One by one: nbgrader ends at a notebook that has a cell twice, and would leave out everybody behind it.
    nbgrader autograde "$assignment" --create --student="$student" --KernelManager.transport=ipc \
        --KernelManager.ip="$apart/sockets/kernel" || left="$left    $student
"
done
nbgrader generate_feedback "$assignment" || status=$?
nbgrader export || status=$?
# Outside of a container, root may be somebody else; what was written belongs to whom the course belongs.
chown -Rh --reference=. . || echo "grade.sh: files that were written here stay root's" >&2
if [ -n "$left" ]; then
    status=1
    cat >&2 <<END
grade.sh: not graded, whatever grades.csv says:
$left  nbgrader says why, above, behind the name. Repair the file in submitted/, or ask for another, and call this again:
    exists multiple times      a cell was copied or split: delete one of the two, or merge them
    Skipping unknown notebook  the file must be called $assignment.ipynb
END
elif [ $status -ne 0 ]; then
    echo "grade.sh: not all feedback and grades could be written, see above" >&2
fi
exit $status

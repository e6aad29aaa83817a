# Keeps one PostgreSQL server for one test process. Takes a folder and the folder of PostgreSQL's programs.
# Orders come in on standard input. When that ends, because the test process did, in any way: stops the
# server and removes the folder. "$folder/state" says how it is: "failed", "stopped", or the server's pid.

# Only the end of standard input ends this.
trap '' HUP INT TERM

folder=$1
programs=$2
server=

say() {
    # Whole or not at all.
    echo "$1" >"$folder/state.new" && mv "$folder/state.new" "$folder/state"
}

stop() {
    if [ -n "$server" ]; then
        # Said again until it has ended: a server that was only just started may not listen yet.
        while kill "-$1" "$server" 2>/dev/null; do
            sleep 0.02
        done
        wait "$server"
        server=
    fi
}

if "$programs/initdb" --pgdata="$folder/data" --username=postgres --auth=trust --encoding=UTF8 --locale=C \
    --no-sync --no-instructions </dev/null; then
    say stopped
else
    say failed
fi

while read -r order what; do
    case $order in
        start)
            "$programs/postgres" -D "$folder/data" -p "$what" -c listen_addresses=127.0.0.1 \
                -c unix_socket_directories= -c max_connections=200 </dev/null &
            server=$!
            say "$server"
            ;;
        stop)
            stop "$what"
            say stopped
            ;;
    esac
done

stop INT
cd / && rm -rf -- "$folder"

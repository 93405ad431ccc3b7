"""Apache Kafka as a child process: one KRaft node, broker and controller in one JVM, loopback only.

Keeps its data in its folder. Stamps records itself (LogAppendTime), creates no topic by itself, never elects
an unclean leader. Started in about 1.5 s, some 400 MB resident. Test and single-machine equipment: one
replica, no TLS, no authentication; it must not be bound to anything but loopback.
"""

import base64
import secrets
import socket
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from headrace.runtime import kafka_install
from headrace.runtime.ports import LOOPBACK
from headrace.runtime.process import Command, PartFailedError, engine_environment, no_room

HEAP_MB = 512
FORMAT_TIMEOUT_S = 60
CLIENT_ID = b"headrace-probe"
METADATA_KEY, METADATA_VERSION = 3, 1
RESPONSE_BYTES_MAX = 1 << 20

# A broker killed with -9 is refused by its own controller until its session has run out: 3 s, not the usual 9.
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
log.dirs={logs}
auto.create.topics.enable=false
log.message.timestamp.type=LogAppendTime
unclean.leader.election.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.cleaner.dedupe.buffer.size=33554432
num.network.threads=2
num.io.threads=4
"""
# The file is read by Log4j; %m comes last so that a multi-line message stays together.
LOGGING = """\
status = warn
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %c{1} %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""


@dataclass(frozen=True, slots=True)
class KafkaEngine:
    """One broker. `folder` is its own; `port` serves clients, `controller_port` the node itself."""

    folder: Path
    port: int
    controller_port: int
    name: str = "kafka"

    @property
    def address(self) -> str:
        """host:port for clients."""
        return f"{LOOPBACK}:{self.port}"

    def prepare(self) -> None:
        """Fetch the jars if need be, write the configuration, format the folder once."""
        kafka_install.find_java()  # before fetching anything
        kafka_install.installed_jars()
        self._scratch.mkdir(parents=True, exist_ok=True)
        logs = self.folder / "data"
        settings = PROPERTIES.format(host=LOOPBACK, port=self.port, controller_port=self.controller_port, logs=logs)
        self._properties.write_text(settings, encoding="utf-8")
        self._logging.write_text(LOGGING, encoding="utf-8")
        if not (logs / "meta.properties").exists():
            self._format()

    def command(self) -> Command:
        """The JVM with flags for a short start and a small heap."""
        return Command(
            name=self.name,
            argv=self._java("kafka.Kafka", str(self._properties)),
            log_file=self.folder / "log.txt",
            folder=self.folder,
            stop_timeout_s=20.0,
        )

    def answers(self) -> bool:
        """Whether it lists itself as a live broker."""
        return has_broker(self.port)

    def complete(self) -> None:
        """Nothing: topics are made by `headrace topics`."""

    def _format(self) -> None:
        arguments = ("format", "--cluster-id", new_cluster_id(), "--config", str(self._properties))
        done = subprocess.run(
            self._java("kafka.tools.StorageTool", *arguments),
            capture_output=True,
            text=True,
            timeout=FORMAT_TIMEOUT_S,
            env=engine_environment(),
            check=False,
        )
        if done.returncode != 0:
            told = f"{done.stdout}{done.stderr}{no_room(self.folder)}"
            raise PartFailedError(f"Kafka's folder {self.folder} could not be formatted:\n{told}")

    def _java(self, main_class: str, *arguments: str) -> tuple[str, ...]:
        jars = kafka_install.cache_folder()
        return (
            str(kafka_install.find_java()),
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            f"-Xmx{HEAP_MB}m",
            "-XX:+ExitOnOutOfMemoryError",
            f"-Djava.io.tmpdir={self._scratch}",  # what its LZ4 unpacks would stay behind in /tmp
            f"-Dlog4j2.configurationFile={self._logging}",
            "-cp",
            f"{jars}/*",
            main_class,
            *arguments,
        )

    @property
    def _scratch(self) -> Path:
        return self.folder / "tmp"

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    @property
    def _logging(self) -> Path:
        return self.folder / "log4j2.properties"


def new_cluster_id() -> str:
    """A random KRaft cluster id: 16 bytes, URL-safe base64; never a leading "-", which would read as an option."""
    while True:
        text = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode("ascii").rstrip("=")
        if not text.startswith("-"):
            return text


def has_broker(port: int, timeout_s: float = 1.0) -> bool:
    """Ask a loopback port for Kafka metadata (Metadata v1, no topics): whether a live broker is listed.

    By hand because a client library retries and logs for seconds where this has to fail in milliseconds.
    """
    header = struct.pack(">hhih", METADATA_KEY, METADATA_VERSION, 1, len(CLIENT_ID)) + CLIENT_ID
    request = header + struct.pack(">i", 0)
    try:
        with socket.create_connection((LOOPBACK, port), timeout=timeout_s) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = connection.makefile("rb")
            size = struct.unpack(">i", answer.read(4))[0]
            if not 8 <= size <= RESPONSE_BYTES_MAX:
                return False
            _correlation_id, brokers = struct.unpack(">ii", answer.read(8))
            return bool(brokers > 0)
    except (OSError, struct.error):
        return False

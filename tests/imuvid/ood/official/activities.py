"""Small copies of the data sets of daily activities; each function writes one as its publishers lay it out."""

from __future__ import annotations

import numpy as np

from tests.imuvid.ood.official.writer import DEG, G, Writer, clock, dates, zipped


def uci_har(w: Writer) -> None:
    """Windows of 128 samples that overlap by half; the last person is in the test part."""
    for part, people in (("train", range(1, max(w.subjects, 2))), ("test", [30] if w.subjects > 1 else [1])):
        rows: dict[str, list] = {f"{kind}_{axis}": [] for kind in ("total_acc", "body_gyro") for axis in "xyz"}
        labels, subjects = [], []
        for subject in people:
            for code, label in ((1, "walking"), (4, "sitting")):
                acc, gyro = w.motion(64 * 6, 50)
                starts = range(0, 64 * 5, 64)
                for kind, values in (("total_acc", acc * w.unit / G), ("body_gyro", gyro)):
                    for i, axis in enumerate("xyz"):
                        rows[f"{kind}_{axis}"] += [values[s : s + 128, i] for s in starts]
                source = w.folder / f"UCI HAR Dataset/{part}/Inertial Signals/total_acc_x_{part}.txt"
                w.truth(f"{part}{len(labels)}", subject, 50, [label], {"waist": (acc, gyro)}, source)
                labels += [code] * 5
                subjects += [subject] * 5
        base = f"UCI HAR Dataset/{part}"
        for name, values in rows.items():
            w.table(f"{base}/Inertial Signals/{name}_{part}.txt", [np.array(values).reshape(-1, 128)], sep="  ")
        w.table(f"{base}/y_{part}.txt", [labels])
        w.table(f"{base}/subject_{part}.txt", [subjects])


def utd_mhad(w: Writer) -> None:
    for s in range(1, w.subjects + 1):
        for action, label, place in ((1, "swipe_left", "right_wrist"), (22, "jog", "right_thigh")):
            acc, gyro = w.motion(180, 50)
            name = f"a{action}_s{s}_t1"
            path = w.mat(f"Inertial/{name}_inertial.mat", "d_iner", [acc * w.unit / G, gyro / DEG])
            w.truth(name, f"s{s}", 50, [label], {place: (acc, gyro)}, path)


def spar(w: Writer) -> None:
    """One file, an array of one pickled dict; the last person's recordings end it."""
    path = w.folder / "seglearn/data/watch_dataset.npy"
    path.parent.mkdir(parents=True)
    signals, rows = [], []
    for s in range(1, w.subjects + 1):
        for label, exercise in enumerate(("PEN", "ABD")):
            acc, gyro = w.motion(300, 50)
            w.truth(f"{len(rows):03d}_{exercise}_right", s, 50, [exercise], {"wrist": (acc, gyro)}, path)
            columns = np.column_stack([acc * w.unit / G, gyro])
            signals.append(columns[:, ::-1] if w.exchanged else columns)
            rows.append((label, s, 1))
    table = dict(zip(("y", "subject", "side"), np.array(rows).T, strict=True))
    names = {"X_labels": ["ax", "ay", "az", "wx", "wy", "wz"], "y_labels": ["PEN", "ABD"]}
    array = np.empty((), dtype=object)
    array[()] = {"X": signals, **table, **names}
    np.save(path, array, allow_pickle=True)


def wisdm_2011(w: Writer) -> None:
    lines = []
    source = w.folder / "WISDM_ar_v1.1/WISDM_ar_v1.1_raw.txt"
    for s in range(1, w.subjects + 1):
        for number, label in enumerate(("Walking", "Sitting")):
            acc, _ = w.motion(200, 20)
            stamps = [49105962326000 + 10**12 * (2 * s + number) + 50_000_000 * i for i in range(200)]
            lines += w.text([[s] * 200, [label] * 200, stamps, acc * w.unit], end=";\n").splitlines()
            name = f"{s}-{len(w.truths)}"
            w.truth(name, s, 20, [label.lower()], {"pocket": (acc,)}, source)
    source.parent.mkdir(parents=True)
    # Two in one line, a stray comma, an empty line: as the published file has them.
    text = "\n".join([lines[0] + lines[1], lines[2].replace(";", ",;"), "", *lines[3:]])
    source.write_text(text + "\n")


def wisdm_2019(w: Writer) -> None:
    for s in range(1600, 1600 + w.subjects):
        for device, place in (("phone", "pocket"), ("watch", "wrist")):
            tables: dict[str, list] = {"accel": [], "gyro": []}
            for code, label in (("A", "walking"), ("D", "sitting")):
                acc, gyro = w.motion(200, 20)
                stamps = [252207666810782 + ord(code) * 10**12 + 50_000_000 * i for i in range(200)]
                for kind, values in (("accel", acc * w.unit), ("gyro", gyro)):
                    tables[kind].append(w.text([[s] * 200, [code] * 200, stamps, values], end=";\n"))
                source = w.folder / f"wisdm-dataset/raw/{device}/accel/data_{s}_accel_{device}.txt"
                w.truth(f"{s}_{device}_{code}", s, 20, [label], {place: (acc, gyro)}, source)
            for kind, texts in tables.items():
                path = w.folder / f"wisdm-dataset/raw/{device}/{kind}/data_{s}_{kind}_{device}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(texts))


def motionsense(w: Writer) -> None:
    groups = ("attitude.roll", "attitude.pitch", "attitude.yaw", "gravity.{}", "rotationRate.{}", "userAcceleration.{}")
    header = ["", *groups[:3], *(group.format(axis) for group in groups[3:] for axis in "xyz")]
    for s in range(1, w.subjects + 1):
        for folder, label in (("wlk_7", "walking"), ("sit_5", "sitting")):
            acc, gyro = w.motion(300, 50)
            user = np.stack([acc[:, 0], np.zeros(300), np.zeros(300)], axis=1)
            columns = [np.arange(300), gyro * 0.1, -(acc - user) * w.unit / G, gyro, -user * w.unit / G]
            path = w.table(f"A_DeviceMotion_data/{folder}/sub_{s}.csv", columns, header)
            w.truth(f"{folder}_sub_{s}", s, 50, [label], {"pocket": (acc, gyro)}, path)


def pamap2(w: Writer) -> None:
    for s in range(101, 101 + w.subjects):
        for part in ("Protocol", "Optional"):
            n = 780
            code = np.repeat([0, 4, 2] if part == "Protocol" else [0, 9, 11], n // 3)
            labels = ["walking", "sitting"] if part == "Protocol" else ["watching_tv", "car_driving"]
            columns: list = [clock(n, 100, 8.38), code, np.full(n, np.nan)]
            streams = {}
            for place in ("wrist", "chest", "ankle"):
                acc, gyro = w.motion(n, 100)
                lost = np.where(np.arange(n)[:, None] % 97 == 5, np.nan, 1.0)
                acc, gyro = acc * lost, gyro * lost
                streams[place] = (acc, gyro)
                columns += [np.full(n, 30.0), acc * w.unit, acc, gyro, np.full((n, 3), 20.0), np.full((n, 4), 1.0)]
            path = w.table(f"PAMAP2_Dataset/{part}/subject{s}.dat", columns, sep=" ")
            w.truth(f"{part}_{s}", s, 100, labels, streams, path)


def mhealth(w: Writer) -> None:
    for s in range(1, w.subjects + 1):
        n = 900
        chest, (ankle, ankle_gyro), (wrist, wrist_gyro) = w.motion(n, 50)[0], w.motion(n, 50), w.motion(n, 50)
        mag = np.full((n, 3), 30.5)
        columns = [chest * w.unit, np.full((n, 2), 0.1), ankle * w.unit, ankle_gyro / DEG, mag]
        columns += [wrist * w.unit, wrist_gyro / DEG, mag, np.repeat([0, 1, 11], 300)]
        path = w.table(f"MHEALTHDATASET/mHealth_subject{s}.log", columns, sep="\t")
        streams = {"chest": (chest,), "left_ankle": (ankle, ankle_gyro), "right_wrist": (wrist, wrist_gyro)}
        w.truth(f"mHealth_subject{s}", s, 50, ["standing", "running"], streams, path)


def realworld(w: Writer) -> None:
    """One activity in one go, one in two goes that are archives in the archive, one under the name of a second go."""
    header = ["id", "attr_time", "attr_x", "attr_y", "attr_z"]
    for s in range(1, w.subjects + 1):
        for activity, label, goes in (("walking", "walking", "2"), ("climbingup", "climbing_up", "12")):
            archives: dict[str, dict] = {"acc": {}, "gyr": {}}
            for go in goes:
                streams, inner = {}, {"acc": {}, "gyr": {}}
                for published, place in (("waist", "waist"), ("shin", "shank")):
                    acc, gyro = w.motion(300, 50)
                    streams[place] = (acc, gyro)
                    stamps = 1435993000000 + (np.arange(300) * 20) + 1000 * int(go)
                    infix = activity if go == "1" else f"{activity}_{go}"
                    for kind, long, values in (("acc", "acc", acc * w.unit), ("gyr", "Gyroscope", gyro)):
                        text = w.text([np.arange(300), stamps, values], header)
                        inner[kind][f"{long}_{infix}_{published}.csv"] = text
                for kind, members in inner.items():
                    if len(goes) > 1:
                        archives[kind][f"{kind}_{activity}_{go}_csv.zip"] = zipped(members)
                    else:
                        archives[kind] |= members
                source = w.folder / f"realworld2016_dataset/proband{s}/data/acc_{activity}_csv.zip"
                w.truth(f"proband{s}_{activity}_{go}", s, 50, [label], streams, source)
            for kind, members in archives.items():
                w.zip(f"realworld2016_dataset/proband{s}/data/{kind}_{activity}_csv.zip", members)


def hhar(w: Writer) -> None:
    header = ["Index", "Arrival_Time", "Creation_Time", "x", "y", "z", "User", "Model", "Device", "gt"]
    n = 1000
    for group, place, device in (("Phones", "waist", "nexus4_1"), ("Watch", "wrist", "lgwatch_1")):
        tables: dict[str, list] = {"accelerometer": [], "gyroscope": []}
        for user in "abcdefghi"[: w.subjects]:
            acc, gyro = w.motion(n, 100)
            creation = [1424696638740127000 + 10_000_000 * i for i in range(n)]
            arrival = [1424696633908 + 10 * i + (i % 3) for i in range(n)]
            gt = np.repeat(["stand", "null", "stairsup"], [400, 200, 400])
            # Lines are in the order of arrival, which is not always that of creation.
            order = np.arange(n)
            order[10:12] = [11, 10]
            for kind, values in (("accelerometer", acc * w.unit), ("gyroscope", gyro)):
                columns = [np.arange(n), np.array(arrival)[order], np.array(creation)[order], values[order]]
                columns += [[user] * n, ["nexus4"] * n, [device] * n, gt[order]]
                tables[kind].append(w.text(columns, header))
            source = w.folder / f"Activity recognition exp/{group}_accelerometer.csv"
            w.truth(f"{user}_{device}", user, 100, ["standing", "stairs_up"], {place: (acc, gyro)}, source)
        for kind, texts in tables.items():
            path = w.folder / f"Activity recognition exp/{group}_{kind}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(texts[0] + "".join(text.split("\n", 1)[1] for text in texts[1:]))


def shoaib(w: Writer) -> None:
    places = ("left_pocket", "right_pocket", "right_wrist", "right_upper_arm", "waist")
    n = 600
    for s in range(1, w.subjects + 1):
        columns, streams = [], {}
        for place in places:
            acc, gyro = w.motion(n, 50)
            streams[place] = (acc, gyro)
            if columns:
                columns.append([""] * n)
            columns += [1380000000000 + 20 * np.arange(n), acc * w.unit, acc * 0.1, gyro, np.full((n, 3), 20.0)]
        columns.append(["walking"] * 300 + ["upsatirs"] * 300)
        header = "Left_pocket" + "," * 14 + "Right_pocket" + "," * 55 + "\ntime_stamp" + ",Ax" * 69
        path = w.table(f"DataSet/Participant_{s}.csv", columns, header)
        w.truth(f"Participant_{s}", s, 50, ["walking", "upstairs"], streams, path)


def usc_had(w: Writer) -> None:
    for s in range(1, w.subjects + 1):
        for activity, label in ((1, "walking_forward"), (8, "sitting")):
            acc, gyro = w.motion(600, 100)
            path = w.mat(f"USC-HAD/Subject{s}/a{activity}t1.mat", "sensor_readings", [acc * w.unit / G, gyro / DEG])
            w.truth(f"s{s}_a{activity}t1", s, 100, [label], {"waist": (acc, gyro)}, path)


def dsads(w: Writer) -> None:
    places = ("chest", "right_wrist", "left_wrist", "right_knee", "left_knee")
    for activity, label in ((1, "sitting"), (17, "rowing")):
        for s in range(1, w.subjects + 1):
            streams, columns = {}, []
            for place in places:
                acc, gyro = w.motion(250, 25)
                streams[place] = (acc, gyro)
                columns += [acc * w.unit, gyro, np.full((250, 3), 0.6)]
            for part in (0, 1):
                rows = slice(125 * part, 125 * part + 125)
                path = w.table(f"data/a{activity:02d}/p{s}/s{part + 1:02d}.txt", [c[rows] for c in columns])
            w.truth(f"a{activity:02d}_p{s}", s, 25, [label], streams, path)


def ku_har(w: Writer) -> None:
    for s in range(1001, 1001 + w.subjects):
        for number, folder, code, label in ((11, "Walk", "L", "walk"), (1, "Sit", "B", "sit")):
            acc, gyro = w.motion(600, 100, gravity=False)
            times_s = clock(600, 100, 0.011)
            name = f"{s}_{code}_1"
            columns = [times_s, acc * w.unit * w.unit**2, times_s, gyro]
            path = w.table(f"1.Raw_time_domian_data/{number}.{folder}/{name}.csv", columns)
            w.truth(f"{number}_{name}", s, 100, [label], {"waist": (acc, gyro)}, path)


def _harth(w: Writer, folder: str, names: list[str], codes: list[int], labels: list[str]) -> None:
    header = ["timestamp", "back_x", "back_y", "back_z", "thigh_x", "thigh_y", "thigh_z", "label"]
    for name in names[: w.subjects]:
        back, thigh = w.motion(900, 50)[0], w.motion(900, 50)[0]
        stamps = dates(clock(900, 50))
        columns = [stamps, back * w.unit / G, thigh * w.unit / G, np.repeat(codes, 450)]
        with_index = name == "S015"
        columns = [np.arange(900), *columns] if with_index else columns
        path = w.table(f"{folder}/{name}.csv", columns, ["index", *header] if with_index else header)
        w.truth(name, name, 50, labels, {"lower_back": (back,), "right_thigh": (thigh,)}, path)


def harth(w: Writer) -> None:
    """One file with an index column, as the published S015 has it."""
    _harth(w, "harth", ["S006", "S015"], [1, 130], ["walking", "cycling_sitting_inactive"])


def har70plus(w: Writer) -> None:
    _harth(w, "har70plus", ["501", "502"], [3, 8], ["shuffling", "lying"])


def opportunity(w: Writer) -> None:
    places = ("back", "right_upper_arm", "right_forearm", "left_upper_arm", "left_forearm")
    n = 240
    for s in range(1, w.subjects + 1):
        for session in ("ADL1", "Drill"):
            table = np.full((n, 250), 7.0)
            table[:, 0] = np.round(clock(n, 30) * 1000)
            streams = {}
            for i, place in enumerate(places):
                acc, gyro = w.motion(n, 30)
                streams[place] = (acc, gyro)
                table[:, 37 + 13 * i : 43 + 13 * i] = np.column_stack([acc * w.unit / G, gyro]) * 1000
            hip, _ = w.motion(n, 30)
            streams["waist"] = (hip,)
            table[:, 4:7] = hip * w.unit / G * 1000
            table[:, 243] = np.repeat([0, 1, 5], n // 3)
            path = w.table(f"OpportunityUCIDataset/dataset/S{s}-{session}.dat", [table], sep=" ")
            w.truth(f"S{s}-{session}", s, 30, ["stand", "lie"], streams, path)


def capture24(w: Writer) -> None:
    """Annotations that hold commas; a stretch without one."""
    walk, sleep = "walking;MET 3.5, leisure", "7030 sleeping;MET 0.95"
    dictionary = [f'"{walk}",walking,x', f'"{sleep}",sleep,x']
    path = w.folder / "capture24/annotation-label-dictionary.csv"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(["annotation,label:Willetts2018,label:Walmsley2020", *dictionary]) + "\n")
    for s in range(1, w.subjects + 1):
        acc, _ = w.motion(1800, 100)
        texts = np.repeat([f'"{walk}"', "", f'"{sleep}"'], 600)
        columns = [dates(clock(1800, 100)), acc * w.unit / G, texts]
        path = w.table(f"capture24/P{s:03d}.csv.gz", columns, ["time", "x", "y", "z", "annotation"])
        w.truth(f"P{s:03d}", f"P{s:03d}", 100, ["walking", "sleep"], {"wrist": (acc,)}, path)


def uestc_mmea_cl(w: Writer) -> None:
    """Clips of both published sensitivities; the days stand for people."""
    for s in range(w.subjects):
        for folder, label, sensitivity in (("12_standing", "standing", 16384), ("27_open_close_door", None, 8192)):
            acc, gyro = w.motion(400, 25)
            counts = np.round(np.column_stack([acc * w.unit / G * sensitivity, gyro / DEG * 16.4])).astype(int)
            name = f"{folder}_2022_05_{5 + s:02d}_16_05_51"
            path = w.table(f"sensor/{folder}/{name}.csv", [counts])
            w.truth(name, f"2022_05_{5 + s:02d}", 25, [label or "open_close_door"], {"head": (acc, gyro)}, path)


WRITERS = {
    name: globals()[name]
    for name in (
        *(
            "uci_har",
            "utd_mhad",
            "spar",
            "wisdm_2011",
            "wisdm_2019",
            "motionsense",
            "pamap2",
            "mhealth",
            "realworld",
            "hhar",
        ),
        *("shoaib", "usc_had", "dsads", "ku_har", "harth", "har70plus", "opportunity", "capture24", "uestc_mmea_cl"),
    )
}

"""Small copies of the data sets of movement disorders and falls, as their publishers lay them out."""

from __future__ import annotations

import json

import numpy as np

from tests.imuvid.ood.fakes import write_hapt
from tests.imuvid.ood.official.writer import DEG, G, Writer, clock, zipped


def hapt(w: Writer) -> None:
    write_hapt(w.folder, num_subjects=w.subjects)
    for s in range(1, w.subjects + 1):
        source = w.folder / f"RawData/acc_exp{s:02d}_user{s:02d}.txt"
        acc, gyro = (np.loadtxt(source.with_name(source.name.replace("acc", kind))) for kind in ("acc", "gyro"))
        np.savetxt(source, acc * w.unit, fmt="%.6f")
        labels = ["walking", "walking_upstairs", "walking_downstairs", "sitting", "standing", "laying"]
        w.truth(f"exp{s:02d}_user{s:02d}", s, 50, labels, {"waist": (acc * G, gyro)}, source)
    if w.exchanged:
        labels = w.folder / "RawData/labels.txt"
        labels.write_text("\n".join(" ".join(reversed(line.split())) for line in labels.read_text().splitlines()))


def daphnet(w: Writer) -> None:
    n = 64 * 20
    for s in range(1, w.subjects + 1):
        streams = {place: (w.motion(n, 64)[0].round(4),) for place in ("ankle", "thigh", "trunk")}
        acc = np.column_stack([pair[0] for pair in streams.values()]) * w.unit / G * 1000
        columns = [np.round(clock(n, 64) * 1000).astype(int), acc.round().astype(int), np.repeat([0, 1, 2, 1], n // 4)]
        path = w.table(f"dataset/S{s:02d}R01.txt", columns, sep=" ")
        w.truth(f"S{s:02d}R01", f"S{s:02d}", 64, ["no_freeze", "freeze", "no_freeze"], streams, path)


def tdcs_fog(w: Writer) -> None:
    rows: dict[str, list] = {"tdcsfog": [], "defog": []}
    for s in range(1, w.subjects + 1):
        for part, rate, scale, kind in (("tdcsfog", 128, 1.0, "Turn"), ("defog", 100, G, "Walking")):
            n = rate * 12
            acc, _ = w.motion(n, rate)
            freeze = np.repeat([0, 1, 0], n // 3)
            kinds = [freeze if name == kind else np.zeros(n, int) for name in ("StartHesitation", "Turn", "Walking")]
            header = ["Time", "AccV", "AccML", "AccAP", "StartHesitation", "Turn", "Walking"]
            columns = [np.arange(n), acc * w.unit / scale, *kinds]
            labels = ["no_freeze", "freeze", "no_freeze"]
            if part == "defog":
                columns += [["true"] * n, ["false"] * (n // 3) + ["true"] * (2 * n // 3)]
                header, labels = [*header, "Valid", "Task"], labels[1:]
            name = f"{part[0]}{s:03d}aa"
            path = w.table(f"train/{part}/{name}.csv", columns, header)
            rows[part].append((name, f"p{s}", 3, "on"))
            w.truth(name, f"p{s}", rate, labels, {"lower_back": (acc,)}, path)
    for part, people in rows.items():
        more = [("e999", "p9", 3, "on")] if part == "defog" else []  # of the folder notype
        plain = Writer(w.folder)
        plain.table(f"{part}_metadata.csv", [list(c) for c in zip(*people, *more, strict=True)], META)


META = ["Id", "Subject", "Visit", "Medication"]


def _stanford(w: Writer, s: int):
    n = 128 * 12
    columns = {"subject_ID": np.full(n, s), "time": clock(n, 128, 181.75)}
    streams = {}
    for place, position in (("lumbar", "lower_back"), ("ankle_r", "right_ankle")):
        acc, gyro = w.motion(n, 128)
        streams[position] = (acc, gyro)
        for kind, values in (("a", acc * w.unit), ("g", gyro)):
            columns |= {f"imu_{place}_{kind}{axis}": values[:, i] for i, axis in enumerate("xyz")}
    for axis in "xyz":
        columns |= {f"imu_head_a{axis}": np.full(n, np.nan), f"imu_head_g{axis}": np.full(n, np.nan)}
    columns["freeze_label"] = np.repeat([0, 1, 0], n // 3)
    return list(columns), np.column_stack(list(columns.values())), streams


def stanford_fog(w: Writer) -> None:
    """One trial as the published workbook, the others as NPZ."""
    labels = ["no_freeze", "freeze", "no_freeze"]
    for s in range(3, 3 + w.subjects):
        names, data, streams = _stanford(w, s)
        data = data[:, ::-1] if w.exchanged else data
        name = f"pt{s}_visit_12.1_tbc_walklr_0_trial_1"
        w.folder.mkdir(parents=True, exist_ok=True)
        if s == 3:
            path = w.folder / f"{name}.xlsx"
            path.write_bytes(workbook(names, data))
        else:
            path = w.folder / f"imus6_subjects7__{name}.npz"
            np.savez(path, data=data.astype(np.float32), columns=np.array(names))
        w.truth(name, f"pt{s}", 128, labels, streams, path)


def workbook(names: list[str], data: np.ndarray) -> bytes:
    """Return a workbook as spreadsheet programs write it: texts apart, cells by reference, empty ones left out."""
    letters = [(chr(64 + i // 26) if i >= 26 else "") + chr(65 + i % 26) for i in range(len(names))]
    top = "".join(f'<c r="{c}1" t="s"><v>{i}</v></c>' for i, c in enumerate(letters))
    rows = [f'<row r="1">{top}</row>']
    for number, row in enumerate(data.tolist(), start=2):
        cells = (f'<c r="{c}{number}"><v>{v!r}</v></c>' for c, v in zip(letters, row, strict=True) if not np.isnan(v))
        rows.append(f'<row r="{number}">{"".join(cells)}</row>')
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    texts = "".join(f"<si><t>{name}</t></si>" for name in names)
    return zipped(
        {
            "xl/sharedStrings.xml": f'<?xml version="1.0"?><sst {space}>{texts}</sst>',
            "xl/worksheets/sheet1.xml": f"<worksheet {space}><sheetData>{''.join(rows)}</sheetData></worksheet>",
        }
    )


def _fog_star(w: Writer, labels: list[str]) -> None:
    places = {"ankleL": "left_ankle", "ankleR": "right_ankle", "back": "lower_back", "wrist": "wrist"}
    header = ["timestamp", *(f"{p}_{k}_{a}" for p in places for k in ("acc", "gyro") for a in "xyz")]
    header += ["activity", "fog", "fog_severity", "subjectID", "sessionID", "taskID"]
    n, texts = 720, []
    source = w.folder / "sensor_data.csv"
    for s in range(1, w.subjects + 1):
        streams, columns = {}, [np.round(clock(n, 60) * 1000)]
        for position in places.values():
            acc, gyro = w.motion(n, 60)
            if position == "left_ankle":
                acc, gyro = (np.where(np.arange(n)[:, None] < 50, np.nan, v) for v in (acc, gyro))
            streams[position] = (acc, gyro)
            columns += [acc * w.unit / G, gyro / DEG]
        fog = np.repeat([0, 0, 1, 0], n // 4)
        columns += [np.repeat([0, 1, 1, 7], n // 4), fog, fog, [s] * n, [1] * n, [3] * n]
        texts.append(w.text(columns, header).replace("NaN", ""))
        w.truth(f"s{s}_session1_task3", s, 60, labels, streams, source)
    w.folder.mkdir(parents=True, exist_ok=True)
    source.write_text(texts[0] + "".join(text.split("\n", 1)[1] for text in texts[1:]))


def fog_star(w: Writer) -> None:
    _fog_star(w, ["no_freeze", "freeze", "no_freeze"])


def fog_star_activities(w: Writer) -> None:
    _fog_star(w, ["walking", "turning_left"])


def turning_in_place(w: Writer) -> None:
    header = ["Frame #", "Time [s]", *(f"ACC {a} [g]" for a in ("ML", "AP", "SI"))]
    header += [*(f"GYR {a} [deg/s]" for a in ("ML", "AP", "SI")), "Freezing event [flag]"]
    n = 128 * 12
    for s in range(1, w.subjects + 1):
        acc, gyro = w.motion(n, 128)
        columns = [np.arange(n), clock(n, 128), acc * w.unit / G, gyro / DEG, np.repeat([0, 1, 0], n // 3)]
        path = w.table(f"IMU/SUB{s:02d}_1.txt", columns, header, sep="\t")
        Writer(w.folder).table(f"IMU/SUB{s:02d}_standing.txt", columns, header, sep="\t")
        labels = ["no_freeze", "freeze", "no_freeze"]
        w.truth(f"PDFE{s:02d}_1", f"PDFE{s:02d}", 128, labels, {"shank": (acc, gyro)}, path)


def weargait_pd(w: Writer) -> None:
    """Patients with angular rates in deg/s under a line above the header, controls in rad/s: both are told apart."""
    places = {"LowerBack": "lower_back", "R_Wrist": "right_wrist"}
    n = 1200
    for i in range(w.subjects):
        name, folder = ("NLS001", "PD PARTICIPANTS") if i == 0 else (f"HC{99 + i}", "CONTROL PARTICIPANTS")
        streams, columns, header = {}, [[f"{t:.2f} sec" for t in clock(n, 100)]], ["Time", "GeneralEvent"]
        columns.append(["Walk"] * 500 + ["Turn"] * 500 + ["EC_FeetTogether"] * 200)
        for place, position in places.items():
            acc, gyro = w.motion(n, 100)
            streams[position] = (acc, gyro)
            columns += [acc * w.unit, gyro / (DEG if i == 0 else 1.0)]
            header += [f"{place}_{kind}_{axis}" for kind in ("Acc", "Gyr") for axis in "XYZ"]
        top = ("," * len(header[1:]) + "\n" if i == 0 else "") + ",".join(header)
        path = w.table(f"{folder}/CSV files/{name}_SelfPace.csv", columns, top)
        w.truth(f"{name}_SelfPace", name, 100, ["walking", "turning"], streams, path)


def pads(w: Writer) -> None:
    for s in range(1, w.subjects + 1):
        label, condition = ("parkinsons", "Parkinson's") if s == 1 else ("healthy", "Healthy")
        patient = w.folder / f"patients/patient_{s:03d}.json"
        patient.parent.mkdir(parents=True, exist_ok=True)
        patient.write_text(json.dumps({"resource_type": "patient", "id": f"{s:03d}", "condition": condition}))
        streams = {}
        for wrist, position in (("RightWrist", "right_wrist"), ("LeftWrist", "left_wrist")):
            acc, gyro = w.motion(1024, 100)
            streams[position] = (acc, gyro)
            columns = [clock(1024, 100), acc * w.unit / G, gyro]
            path = w.table(f"movement/timeseries/{s:03d}_CrossArms_{wrist}.txt", columns)
        w.truth(f"{s:03d}_CrossArms", f"{s:03d}", 100, [label], streams, path)


def sisfall(w: Writer) -> None:
    """The accelerometer that is not read has other counts a g."""
    for s in range(1, w.subjects + 1):
        for code, label in (("D01", "daily_activity"), ("F01", "fall")):
            acc, gyro = w.motion(2000, 200)
            if code == "F01":
                acc[1400:1404] *= 3
            counts = [acc * w.unit / G * 256, gyro / DEG * 2**16 / 4000, acc / G * 1024]
            name = f"{code}_SA{s:02d}_R01"
            path = w.table(
                f"SisFall_dataset/SA{s:02d}/{name}.txt", [np.round(c).astype(int) for c in counts], sep=", ", end=";\n"
            )
            w.truth(name, f"SA{s:02d}", 200, [label], {"waist": (acc, gyro)}, path)


def mobiact(w: Writer) -> None:
    header = ["timestamp", "rel_time", *(f"{k}_{a}" for k in ("acc", "gyro") for a in "xyz"), "azimuth", "pitch"]
    header += ["roll", "label"]
    for s in range(1, w.subjects + 1):
        for code, texts, labels in (
            ("WAL", ["WAL"] * 1200, ["walking"]),
            ("FOL", ["STD"] * 500 + ["FOL"] * 200 + ["LYI"] * 500, ["standing", "fall", "lying"]),
        ):
            acc, gyro = w.motion(1200, 100)
            stamps = [1402317213820000000 + 10_000_000 * i for i in range(1200)]
            columns = [stamps, clock(1200, 100), acc * w.unit, gyro, np.full((1200, 3), 10.0), texts]
            path = w.table(f"MobiAct_Dataset_v2.0/Annotated Data/{code}/{code}_{s}_1_annotated.csv", columns, header)
            w.truth(f"{code}_{s}_1_annotated", s, 100, labels, {"pocket": (acc, gyro)}, path)


WRITERS = {
    name: globals()[name]
    for name in (
        *("hapt", "daphnet", "tdcs_fog", "stanford_fog", "fog_star", "fog_star_activities", "turning_in_place"),
        *("weargait_pd", "pads", "sisfall", "mobiact"),
    )
}

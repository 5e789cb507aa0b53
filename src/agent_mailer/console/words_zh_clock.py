"""The Chinese texts of the pages about what is sent by the clock."""

from __future__ import annotations

CLOCK: dict[str, str] = {
    "Leaves next": "下次发出",
    "Sent last": "上次发出",
    "What is wrong": "问题",
    "due": "到时",
    "never again": "不再发出",
    "its mail": "它的邮件",
    "schedule": "定时任务",
    "body unreadable": "正文无法读取",
    "body untrusted": "正文不受信任",
    "body changed": "正文已改动",
    "What agents are sent by the clock; what does not leave comes first.": "按时发给智能体的邮件；发不出去的排在前面。",
    "Nothing is sent by the clock": "没有按时发出的邮件",
    "A schedule is a table of an agent's configuration:": "定时任务是智能体配置中的一个表：",
    "What its schedule {name} sends does not leave: {why}.": "它的定时任务 {name} 的邮件发不出去：{why}。",
}
"""English text: Chinese text."""
